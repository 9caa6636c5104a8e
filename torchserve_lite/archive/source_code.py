"""What an archive's Python files say of themselves, found by reading, never by importing them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.unpacking.entries import ArchiveError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedPackage:
    """A top-level name that the model's code imports. ``optional``: only inside ``try ... except ImportError``."""

    name: str
    where: str  # "in the archive", "Python's own", "the server's", "installed" or "not installed"
    optional: bool = False

    @property
    def missing(self) -> bool:
        return self.where == "not installed" and not self.optional


def imported_packages(folder: Path, files: Iterable[Path]) -> tuple[ImportedPackage, ...]:
    """What these files import, and what those of the archive that they import do; files Python cannot read are none."""
    found: dict[str, bool] = {}
    todo, seen = list(files), set[Path]()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        for name, optional in _imports(file, folder):
            found[name] = found.get(name, True) and optional
            todo += _own_files(folder, name)
    return tuple(ImportedPackage(name=name, where=_where(folder, name), optional=found[name]) for name in sorted(found))


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those in if, try and with included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from top_level(node.body)
        if isinstance(node, ast.If | ast.Try):
            yield from top_level(node.orelse)
        if isinstance(node, ast.Try):
            yield from top_level([statement for handler in node.handlers for statement in handler.body])


def parsed(file: Path, folder: Path) -> ast.Module:
    name = file.relative_to(folder).as_posix()
    try:
        return ast.parse(file.read_bytes(), name)
    except SyntaxError as error:
        raise ArchiveError(f"{name} line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ArchiveError(f"{name} is not Python: {error}") from error


def _imports(file: Path, folder: Path) -> Iterator[tuple[str, bool]]:
    try:
        module = parsed(file, folder)
    except ArchiveError:
        return  # the entry point's description has said so, or nobody runs the file
    optional = {id(inner) for node in ast.walk(module) if _forgives_imports(node) for inner in ast.walk(node)}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], id(node) in optional
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], id(node) in optional


def _forgives_imports(node: ast.AST) -> bool:
    if not isinstance(node, ast.Try):
        return False
    caught = " ".join(ast.unparse(handler.type) if handler.type else "Exception" for handler in node.handlers)
    return any(name in caught for name in ("ImportError", "ModuleNotFoundError", "Exception"))


def _where(folder: Path, name: str) -> str:
    if _own_files(folder, name):
        return "in the archive"
    if name in sys.stdlib_module_names:
        return "Python's own"
    if name == "ts":
        return "the server's"
    return "installed" if is_installed(name) else "not installed"


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def module_file(folder: Path, module: str) -> Path | None:
    for file in (folder / f"{module}.py", folder / module / "__init__.py"):
        if module and file.is_file():
            return file
    return None


def _own_files(folder: Path, name: str) -> list[Path]:
    if (folder / f"{name}.py").is_file():
        return [folder / f"{name}.py"]
    return sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else []
