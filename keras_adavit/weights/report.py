"""What became of every weight and of every array of a file."""

import dataclasses
from pathlib import Path

from keras_adavit.errors import printable


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every weight of the model and of every array of the file; `print` it.

    Attributes:
        path: The file.
        key: The key of the file under which the weights were, empty if it has none.
        loaded: Names in the file by path in the model.
        kept: Why a weight of the model stays as it was, by path.
        ignored: Why an array of the file was not used, by name.
        notes: What else was done.
    """

    path: Path
    key: str
    loaded: dict[str, list[str]]
    kept: dict[str, str]
    ignored: dict[str, str]
    notes: list[str]

    @property
    def new_classifier(self):
        """Whether the classifier stays as it was: the file has none, or one of another number of classes."""
        return any(path.startswith("head/") for path in self.kept)

    @property
    def summary(self):
        """A line for what was loaded, and one for each reason why something was not."""
        arrays = sum(len(names) for names in self.loaded.values())
        file = printable(self.path) + (f" ({self.key})" if self.key else "")
        lines = [f"{file}: {len(self.loaded)} weights from {arrays} arrays"]
        for verb, entries in (("stays as it was", self.kept), ("ignored", self.ignored)):
            for reason in dict.fromkeys(entries.values()):
                lines.append(f"  {verb}: {list(entries.values()).count(reason)} {reason}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def __str__(self):
        lines = [f"loaded   {path} ← {', '.join(names)}" for path, names in self.loaded.items()]
        lines += [f"kept     {path}: {reason}" for path, reason in self.kept.items()]
        lines += [f"ignored  {name}: {reason}" for name, reason in self.ignored.items()]
        return "\n".join([*lines, self.summary])
