"""A server in a process of its own, and clients of it."""

import contextlib
import os
import re
import select
import subprocess
import sys
import time

import pytest
import requests

START_SECONDS = 900  # a busy machine takes minutes


def need_server():
    """Skips where the extra `serve` is not installed."""
    for name in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(name, reason="serving needs the extra `serve`")


def start(*arguments):
    """Starts `keras-adavit serve` with these arguments on a free port, and returns the process and its address."""
    command = [sys.executable, "-m", "keras_adavit", "serve", *map(str, arguments)]
    if "--port" not in arguments:
        command += ["--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    said, limit = b"", time.monotonic() + START_SECONDS
    while not (address := re.search(rb"on (http://\S+)\n", said)):
        readable, _, _ = select.select([process.stdout], [], [], 1)
        part = os.read(process.stdout.fileno(), 4096) if readable else None
        said += part or b""
        if part == b"" or time.monotonic() > limit:
            process.kill()
            _, errors = process.communicate()
            raise RuntimeError(f"the server did not start: {said.decode()}{errors.decode()[-2000:]}")
    return process, address[1].decode()


@contextlib.contextmanager
def served(*arguments):
    """A running server: its process and its address."""
    process, address = start(*arguments)
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ask(address, *files, **query):
    """The status and the JSON that files (paths) are answered."""
    with contextlib.ExitStack() as stack:
        opened = [("photo", stack.enter_context(open(file, "rb"))) for file in files]
        reply = requests.post(f"{address}/predict", params=query, files=opened, timeout=600)
    return reply.status_code, reply.json()
