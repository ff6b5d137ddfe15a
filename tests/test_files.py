"""Files are written whole, or what was there stays."""

import contextlib
import errno
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_adavit import files
from keras_adavit.errors import InputError


@contextlib.contextmanager
def small_files():
    """Lets no file grow beyond 1000 bytes: the error of a full disk, as a library meets it.

    No fixture, under which the file that pytest prints to could not grow either.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("earlier", [None, "earlier"])
def test_a_file_comes_whole(earlier, tmp_path):
    path = tmp_path / "model.keras"
    if earlier:
        path.write_text(earlier)
    with files.write_whole(path) as unfinished:
        assert unfinished.name == "model.keras"
        unfinished.write_text("half")
        assert not path.exists() if earlier is None else path.read_text() == earlier
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["model.keras"]


def test_what_is_written_is_flushed_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.readlink(f"/proc/self/fd/{file}")) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("rename") or replace(*paths))
    files.write_text(tmp_path / "a.txt", "text")
    assert [Path(call).name for call in calls] == ["a.txt", "rename", tmp_path.name]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), TypeError()])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("earlier")
    expected = InputError if isinstance(error, OSError) else type(error)

    def write_half():
        with files.write_whole(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(expected) as raised:
        write_half()
    if expected is InputError:
        assert str(raised.value) == f"{path} cannot be written. Received: No space left on device"
    assert path.read_text() == "earlier"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_flush_or_rename_that_fails(call, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.txt").write_text("earlier")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match=r"a\.txt cannot be written\. Received: Input/output error"):
        files.write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "earlier"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_behind_another_error_is_told_too(tmp_path):
    def write(path):
        try:
            path.write_bytes(b"x" * 2000)
        finally:
            raise ValueError("cannot close")

    told = pytest.raises(InputError, match="File too large")
    with small_files(), told, files.write_whole(tmp_path / "a.bin") as unfinished:
        write(unfinished)
    assert names(tmp_path) == []


def test_an_error_of_its_own_is_not_taken_for_the_disks(tmp_path):
    def refuse():
        with files.write_whole(tmp_path / "a.bin"):
            try:
                raise OSError("no")
            except OSError as error:
                raise InputError("a sentence") from error

    with pytest.raises(InputError, match=r"^a sentence$"):
        refuse()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/such/a.txt", "No such file or directory"),
        ("file/a.txt", "Not a directory"),
        ("folder", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_places_where_nothing_can_be_written(place, message, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message):
        files.write_text(tmp_path / place, "text")
    if place != "folder":
        with pytest.raises(InputError, match=message):
            files.check_writable(tmp_path / place)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


def test_devices_are_written_to_directly():
    files.write_text("/dev/null", "text")
    with pytest.raises(InputError, match=r"/dev/full cannot be written\. Received: No space left on device"):
        files.write_text("/dev/full", "text")
    assert Path("/dev/full").is_char_device()


def test_a_link_and_the_permissions_stay(tmp_path):
    target = tmp_path / "target.json"
    target.write_text("{}")
    target.chmod(0o440)
    (tmp_path / "link.json").symlink_to(target)
    files.write_text(tmp_path / "link.json", json.dumps([1]))
    assert (tmp_path / "link.json").is_symlink()
    assert target.read_text() == "[1]"
    assert target.stat().st_mode & 0o777 == 0o440


def write_folder(path, text):
    with files.write_whole(path) as unfinished:
        (unfinished / "inner").mkdir(parents=True)
        (unfinished / "inner" / "a.txt").write_text(text)


def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch):
    place = tmp_path / "model"
    write_folder(place, "first")
    (place / "b.txt").write_text("of the first alone")
    write_folder(place, "second")
    assert names(place) == ["inner"]
    assert (place / "inner" / "a.txt").read_text() == "second"
    assert names(tmp_path) == ["model"]

    rename = os.rename

    def fail_for_the_new(source, target):
        if Path(source).name == "model" and Path(target) == place:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new)
    with pytest.raises(InputError, match="Input/output error"):
        write_folder(place, "third")
    assert (place / "inner" / "a.txt").read_text() == "second"
    assert names(tmp_path) == ["model"]


def test_one_of_many_makes_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(files.make_folder, [tmp_path / "a" / "b"] * 64)) == 1
    (tmp_path / "file").write_text("")
    assert not files.make_folder(tmp_path / "file")
    with pytest.raises(InputError, match="Not a directory"):
        files.make_folder(tmp_path / "file" / "a")
