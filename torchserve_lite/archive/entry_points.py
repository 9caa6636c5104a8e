"""Says what a worker would call for an archive's handler, by the worker's rules (``ts.model_loader``), running nothing.

One table of cases (``tests/entry_point_cases.py``) holds the two to the same answers.
"""

from __future__ import annotations

import ast
import builtins
import enum
import sys
from collections.abc import Iterator
from pathlib import Path

from torchserve_lite.archive.built_in_handlers import BUILT_IN_HANDLERS, suggestion_for
from torchserve_lite.archive.source_code import module_file, parsed, top_level
from torchserve_lite.archive.unpacking.entries import ArchiveError

# Libraries whose classes stand beside handlers and have no method ``handle``.
_LIBRARIES = frozenset({"lightning", "numpy", "pydantic", "pytorch_lightning", "torch", "torchvision", "transformers"})


class _Handles(enum.IntEnum):
    """Whether a class has a method ``handle``, as far as reading can tell."""

    NO = 0
    PERHAPS = 1  # it extends a class that cannot be read here
    YES = 2


def describe_entry_point(folder: Path, handler: str) -> str:
    """What a worker would call for ``handler``, in words; an ArchiveError says why there is nothing it could call."""
    named, _, name = handler.partition(":")
    module = named.removesuffix(".py").rpartition("/")[2]
    file = module_file(folder, module)
    if file is None:
        if module in BUILT_IN_HANDLERS:
            return f"{module}, built into the server"
        if not handler:
            raise ArchiveError("names no handler. Give one when you register it, or set default_service_handler")
        raise ArchiveError(
            f"has the handler {handler}, which is neither a Python file in it nor one of the server's own. "
            f"{suggestion_for(module).removesuffix('.')}"
        )

    source = _Source(file, folder)
    name = name or "handle"
    if name in source.functions:
        return f"function {name} in {source.name}"
    handler_class = source.classes.get(name) or _handler_class(source)
    if source.handles(handler_class) is _Handles.NO:
        raise ArchiveError(
            f"class {handler_class.name} in {source.name} has no method handle and no base class that could have one"
        )
    own = any(
        isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == "handle"
        for item in handler_class.body
    )
    bases = ", ".join(ast.unparse(base) for base in handler_class.bases)
    method = "handle" if own or not bases else f"handle inherited from {bases}"
    return f"class {handler_class.name} in {source.name}, method {method}"


def check_model_file(file: Path, folder: Path) -> None:
    """An ArchiveError when the worker could not tell which class in ``file`` is the model."""
    source = _Source(file, folder)
    classes = list(source.classes.values())
    if len(classes) != 1:
        networks = source.networks()
        if len(networks) == 1:
            return
        names = f" ({', '.join(node.name for node in networks or classes)})" if classes else ""
        raise ArchiveError(
            f"{source.name} must define exactly one class that is a network, and defines "
            f"{len(networks or classes)}{names}"
        )


def holds_a_network(file: Path) -> bool:
    """Whether ``file`` is certainly a model file: one of its classes, and no other, extends some library's."""
    return len(_Source(file, file.parent).networks()) == 1


def _handler_class(source: _Source) -> ast.ClassDef:
    """The one class of the file; of several, the one that can handle requests."""
    classes = list(source.classes.values())
    if len(classes) == 1:
        return classes[0]
    able = [node for node in classes if source.handles(node) is _Handles.YES]
    able = source.not_extended(able or [node for node in classes if source.handles(node) is _Handles.PERHAPS])
    if len(able) > 1:
        able = [node for node in able if source.extends_base_handler(node)] or able
    if len(able) == 1:
        return able[0]
    names = f" ({', '.join(node.name for node in able or classes)})" if classes else ""
    raise ArchiveError(
        f"{source.name} must define a function handle or one class that can be the handler, and defines "
        f"{len(able or classes)}{names}. Name the class after a colon: {source.name}:ClassName"
    )


class _Source:
    """A module of an archive: the functions and classes at its top level, and what its classes extend."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.name = file.relative_to(folder).as_posix()
        self.functions: set[str] = set()  # and all other names but classes, which have rules of their own
        self.classes: dict[str, ast.ClassDef] = {}
        self._folder = folder
        self._imports: dict[str, str] = {}  # name here -> full name
        for node in top_level(parsed(file, folder).body):
            self._add(node)

    def handles(self, node: ast.ClassDef) -> _Handles:
        if any(_defines_handle(ancestor) for _, ancestor in self._ancestors(node)):
            return _Handles.YES
        return max((_handles_as_base(base) for base in self.foreign_bases(node)), default=_Handles.NO)

    def extends_base_handler(self, node: ast.ClassDef) -> bool:
        own = any(ancestor.name == "BaseHandler" for _, ancestor in self._ancestors(node))
        return own or any(_is_handler_of_ts(base) for base in self.foreign_bases(node))

    def not_extended(self, nodes: list[ast.ClassDef]) -> list[ast.ClassDef]:
        """Without those that others of them extend."""
        extended = {id(ancestor) for node in nodes for _, ancestor in self._ancestors(node) if ancestor is not node}
        return [node for node in nodes if id(node) not in extended]

    def networks(self) -> list[ast.ClassDef]:
        """A network extends something that is neither Python's own nor another class of the file."""
        found = [
            node
            for node in self.classes.values()
            if any(not _is_pythons_own(base) for base in self.foreign_bases(node))
        ]
        return self.not_extended(found)

    def foreign_bases(self, node: ast.ClassDef) -> list[str]:
        """Full names of what the class and its ancestors extend outside the archive."""
        return [
            source._full_name(base)
            for source, ancestor in self._ancestors(node)
            for base in ancestor.bases
            if source._found(base) is None
        ]

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ClassDef):
            self.classes[node.name] = node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.functions.add(node.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                self._imports[(alias.asname or alias.name).partition(".")[0]] = (
                    alias.name if alias.asname else (alias.name.partition(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                self._imports[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
        elif isinstance(node, ast.Assign):
            self.functions |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self.functions.add(node.target.id)
        self.functions |= self._imports.keys()

    def _ancestors(self, node: ast.ClassDef) -> Iterator[tuple[_Source, ast.ClassDef]]:
        """The class and what it extends within the archive, each with the module it stands in."""
        todo, seen = [(self, node)], set[tuple[str, str]]()
        while todo:
            source, current = todo.pop()
            if (source.name, current.name) not in seen:  # hostile code may extend in circles
                seen.add((source.name, current.name))
                yield source, current
                todo += filter(None, map(source._found, current.bases))

    def _found(self, base: ast.expr) -> tuple[_Source, ast.ClassDef] | None:
        """The class of the archive that ``base`` names."""
        name = self._full_name(base)
        if name in self.classes:
            return self, self.classes[name]
        module, _, class_name = name.rpartition(".")
        file = module_file(self._folder, module.replace(".", "/"))
        try:
            source = _Source(file, self._folder) if file else None
        except ArchiveError:
            return None
        return (source, source.classes[class_name]) if source and class_name in source.classes else None

    def _full_name(self, base: ast.expr) -> str:
        """As imported: ``nn.Module`` is torch.nn.Module. Of ``Generic[T]`` the part before the bracket counts."""
        while isinstance(base, ast.Subscript):
            base = base.value
        first, dot, rest = ast.unparse(base).partition(".")
        return self._imports.get(first, first).lstrip(".") + dot + rest


def _defines_handle(node: ast.ClassDef) -> bool:
    """As a method, or as an attribute that is set on the class or on ``self``."""
    if any(ast.unparse(base).endswith("Protocol") for base in node.bases):
        return False
    return any(
        (isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == "handle" and item in node.body)
        or (isinstance(item, ast.Attribute) and item.attr == "handle" and isinstance(item.ctx, ast.Store))
        or (isinstance(item, ast.Assign) and item in node.body and "handle" in map(ast.unparse, item.targets))
        for item in ast.walk(node)
    )


def _handles_as_base(name: str) -> _Handles:
    if _is_handler_of_ts(name):
        return _Handles.YES
    no = _is_pythons_own(name) or name.partition(".")[0] in _LIBRARIES | {"ts"} or name.endswith(("Error", "Exception"))
    return _Handles.NO if no else _Handles.PERHAPS


def _is_handler_of_ts(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last == "BaseHandler" or (name.startswith("ts.torch_handler.") and not last.endswith(("Error", "Exception")))


def _is_pythons_own(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names or hasattr(builtins, name)
