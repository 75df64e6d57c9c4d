"""Who may import whom, and what is public: the architecture as far as a test can see it (docs/design.md)."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import datfs
from datfs import errors

PACKAGE = Path(datfs.__file__).parent

PURE = {
    "datfs.bitfield",
    "datfs.budget",
    "datfs.chunk_states",
    "datfs.crypto",
    "datfs.errors",
    "datfs.flat",
    "datfs.index_lists",
    "datfs.link",
    "datfs.late",
    "datfs.metadata",
    "datfs.near",
    "datfs.net.address_book",
    "datfs.net.address_states",
    "datfs.net.cipher",
    "datfs.net.connection",
    "datfs.net.framing",
    "datfs.net.messages",
    "datfs.net.peer_states",
    "datfs.net.places",
    "datfs.net.rate_limit",
    "datfs.net.replication",
    "datfs.net.report",
    "datfs.net.states",
    "datfs.net.traffic",
    "datfs.net.turns",
    "datfs.net.upload",
    "datfs.path_index",
    "datfs.text",
    "datfs.transfers",
    "datfs.unsettled",
    "datfs.varint",
    "datfs.vfs",
    "datfs.wants",
}
"""No I/O, no clock, no randomness of their own, nothing asynchronous."""

SYNCHRONOUS = {
    "datfs.cache_drives",
    "datfs.chunk_uses",
    "datfs.clone_content",
    "datfs.clone_plan",
    "datfs.dat_clone",
    "datfs.pins",
    "datfs.placing",
    "datfs.programs",
    "datfs.register",
    "datfs.room",
    "datfs.signals",
    "datfs.storage",
    "datfs.store",
    "datfs.working_files",
}
"""Local files, no waiting for anything else."""

MAY_MOUNT = {"datfs.appearance", "datfs.fuse_mount", "datfs.fuse_ops", "datfs.fuse_session", "datfs.mount"}
"""The only ones that know pyfuse3: everything else works where it cannot be built."""

WITHOUT_NETWORK = {
    "datfs.drive",
    "datfs.fuse_ops",
    "datfs.grafts",
    "datfs.holdings",
    "datfs.neighbours",
    "datfs.open_file",
    "datfs.past_index",
    "datfs.register",
    "datfs.sparse",
    "datfs.time_travel",
}
"""They say what they want; others fetch it."""

MAKES_KEYS = "datfs.crypto"
"""Randomness has one door, and there it can be passed in."""

IO_MODULES = {
    "asyncio",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ["datfs", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.endswith("_pb2")}


def imports(name: str) -> set[str]:
    """Everything a module imports, at its top or anywhere in it, as dotted names of modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & SOURCES.keys()
            found.update(submodules or {node.module})
    return found


IMPORTS = {name: imports(name) for name in SOURCES}


def outside(name: str) -> set[str]:
    """The top-level names of what a module imports from elsewhere."""
    return {imported.partition(".")[0] for imported in IMPORTS[name]} - {"datfs"}


def inside(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    return {imported for imported in IMPORTS[name] if imported.partition(".")[0] == "datfs"}


def test_the_lists_name_modules_that_exist() -> None:
    """A module that was renamed or removed does not slip out of the rules."""
    assert not (PURE | SYNCHRONOUS | MAY_MOUNT | WITHOUT_NETWORK) - SOURCES.keys()


def test_no_two_modules_need_each_other() -> None:
    """Imports, those for types included, have a direction."""
    try:
        TopologicalSorter({name: inside(name) & SOURCES.keys() - {name} for name in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail(f"import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", sorted(PURE & SOURCES.keys()))
def test_pure_modules_touch_nothing(name: str) -> None:
    """A pure module imports neither trio nor anything that reads, writes, waits or throws dice."""
    allowed = {"secrets"} if name == MAKES_KEYS else set()
    assert not outside(name) & (IO_MODULES | {"trio", "pyfuse3"}) - allowed


@pytest.mark.parametrize("name", sorted(SYNCHRONOUS & SOURCES.keys()))
def test_synchronous_modules_do_not_wait(name: str) -> None:
    """Registers and their storage are plain calls, usable without an event loop."""
    assert "trio" not in outside(name)


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - MAY_MOUNT))
def test_only_the_mount_knows_fuse(name: str) -> None:
    """Everything but the mount works without pyfuse3: nothing else imports it, not even late."""
    assert "pyfuse3" not in outside(name)


def test_everything_else_starts_without_fuse() -> None:
    """The package and the command line load where pyfuse3 does not."""
    program = "import sys; sys.modules['pyfuse3'] = None; import datfs, datfs.cli, datfs.__main__"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 0


@pytest.mark.parametrize("name", sorted(WITHOUT_NETWORK & SOURCES.keys()))
def test_network_depends_on_registers_and_not_the_reverse(name: str) -> None:
    """Registers, drives and the file system know no peer."""
    assert not [imported for imported in inside(name) if imported.startswith("datfs.net")]


def test_the_file_system_knows_the_seam_only() -> None:
    """Operations speak with vfs, so that another format of drives can stand behind it."""
    assert "datfs.vfs" in inside("datfs.fuse_ops")
    assert not inside("datfs.fuse_ops") & {"datfs.drive", "datfs.sparse", "datfs.register", "datfs.client"}
    assert inside("datfs.grafts") == {"datfs.vfs"}


def test_errors_import_nothing() -> None:
    """Everybody may raise them."""
    assert not inside("datfs.errors")


def test_public_names_exist_and_are_described() -> None:
    """``datfs.__all__`` is complete, and every class and function in it has a docstring."""
    for name in datfs.__all__:
        value = getattr(datfs, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), name
    public = {name for name, value in vars(datfs).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public <= set(datfs.__all__) | {"annotations"}


def test_one_source_of_the_version() -> None:
    """``datfs.__version__`` is that of the installed package."""
    assert datfs.__version__ == version("datfs")


ERRORS = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_are_in_the_drawing(error: type[Exception]) -> None:
    """Each class has a docstring of its own, and stands in the drawing one step to the right of its base."""
    assert error.__doc__
    drawing = (errors.__doc__ or "").splitlines()
    depth = {
        words[0]: len(line) - len(stripped)
        for line in drawing
        if (words := (stripped := line.lstrip(" │├└─")).split()) and line.startswith("    ")
    }
    assert error.__name__ in depth
    if error is not errors.DatfsError:
        assert error.__base__ is not None
        assert depth[error.__name__] == depth[error.__base__.__name__] + 3
