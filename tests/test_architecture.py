"""The house of CONTRIBUTING.md: a room imports only from floors below its own, imports inside functions counted."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "keras_adavit"
FLOORS = (
    ("errors", "startup", "macs"),
    ("files", "archives", "settings", "memory", "devices"),
    ("kernels", "gating", "data", "visualize"),
    ("layers", "packed", "training"),
    ("weights",),
    ("models",),
    ("evaluation", "export"),
    ("experiments", "serving"),
    ("commands", "__init__"),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TENSORFLOW = {"data", "export", "serving/photos.py", "devices/tensorflow.py", "kernels/tensorflow.py"}
TENSORFLOW |= {"packed/tensorflow.py", "packed/tensorflow_xla.py"}
# Where the backend is asked for: three switches, and modules in which a comment says why nowhere else would do.
BACKEND = {
    "devices/dispatch.py",
    "kernels/dispatch.py",
    "packed/dispatch.py",
    "data/pipeline.py",
    "training/distillation.py",
    "evaluation/timing.py",
    "experiments/run.py",
    "experiments/stage.py",
    "training/checkpoint.py",
    "export/write.py",
    "serving/engines.py",
    "models/restore.py",
    "models/compile_arguments.py",
}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    """The room of a path or of a dotted name below the package."""
    return Path(module).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def local_imports(path):
    """Modules of the package that a file imports, as paths below it."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "keras_adavit":
            continue
        for end in (len(parts), len(parts) - 1):
            below = Path(*parts[1:end]) if end > 1 else Path()
            found = [f for f in (below.with_suffix(".py"), below / "__init__.py") if below.parts and f in MODULES]
            if found:
                yield found[0]
                break


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_import_goes_up_or_sideways(module):
    own = room_of(module)
    for other in local_imports(module):
        room = room_of(other)
        assert room == own or FLOOR[room] < FLOOR[own], f"{module} imports {other}"


def test_no_circle():
    graph = {module: set(local_imports(module)) - {module} for module in MODULES}
    while graph:
        leaves = [module for module, others in graph.items() if not others & graph.keys()]
        assert leaves, f"a circle among {sorted(map(str, graph))}"
        for leaf in leaves:
            del graph[leaf]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_some_rooms_know_a_backend(module):
    source = (PACKAGE / module).read_text()
    allowed = str(module) in TENSORFLOW or room_of(module) in TENSORFLOW
    assert allowed or not any(name.split(".")[0] == "tensorflow" for name in imports(module))
    assert str(module) in BACKEND or "backend.backend()" not in source
