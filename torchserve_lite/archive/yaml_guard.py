"""Reads YAML from archives: plain values only, in bounded size, depth and breadth.

Aliases are the trap of the format: a few lines that refer to one another can stand for billions of values once a
merge key, or whoever sends them on, writes them out. So the events are counted before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from torchserve_lite.archive.unpacking.entries import MIB, ArchiveError

_SafeLoader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML without libyaml has only the latter

_LARGEST = MIB
_DEEPEST = 64
_MOST_VALUES = 100_000
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_LONGEST_NUMBER = 1000  # characters; PyYAML takes minutes for 1:1:1..., and Python writes no number of 4,301 digits
_OBJECT_TAG = "tag:yaml.org,2002:python/"


def read_yaml(data: bytes) -> Any:
    """The one document in ``data``, as ``yaml.safe_load`` gives it; an ArchiveError names line and column."""
    if len(data) > _LARGEST:
        raise ArchiveError(f"is larger than {_LARGEST:,} bytes")
    loader = type("Loader", (_SafeLoader,), {"construct_object": _construct_object})
    try:
        _AliasGuard().take(yaml.parse(data, Loader=_SafeLoader))
        return yaml.load(data, Loader=loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ArchiveError(f"is not valid YAML: {problem}{_at(getattr(error, 'problem_mark', None))}") from error
    except ArchiveError:
        raise
    except Exception as error:  # PyYAML has no list of what else it may raise; the file is wrong in any case
        raise ArchiveError(f"cannot be read: {type(error).__name__}: {error}") from error


def _construct_object(loader: Any, node: yaml.Node, deep: bool = False) -> Any:
    """A method of the loader: PyYAML's constructors raise whatever their code stumbles over, and say not where.

    ``!!bool maybe`` is a KeyError there, ``!!timestamp x`` an AttributeError, ``!!int ''`` an IndexError.
    """
    if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise ArchiveError(
            f"has a number of {len(node.value):,} characters{_at(node.start_mark)}; {_LONGEST_NUMBER:,} are the most"
        )
    try:
        return _SafeLoader.construct_object(loader, node, deep)
    except (yaml.YAMLError, ArchiveError):
        raise
    except Exception as error:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")[:60]
        value = f" {node.value[:60]!r}" if isinstance(node, yaml.ScalarNode) else ""
        raise ArchiveError(f"has a value{value} that cannot be read as !!{tag}{_at(node.start_mark)}") from error


class _AliasGuard:
    """Counts the values of a document as if every alias were written out."""

    def __init__(self) -> None:
        self._open: list[tuple[str | None, int]] = []  # anchor of each collection we are in, values before it
        self._sizes: dict[str, int] = {}
        self._values = 0

    def take(self, events: Iterator[yaml.Event]) -> None:
        for event in events:
            self._look_at(event)
            if self._values > _MOST_VALUES:
                raise ArchiveError(f"stands for more than {_MOST_VALUES:,} values{_at(event.start_mark)}")
            if len(self._open) > _DEEPEST:
                raise ArchiveError(f"is nested more than {_DEEPEST} deep{_at(event.start_mark)}")

    def _look_at(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self._values:
            raise ArchiveError(f"holds more than one document{_at(event.start_mark)}")
        if isinstance(event, yaml.AliasEvent):
            self._values += self._size_of(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_object(event)
            self._open.append((event.anchor, self._values))
            self._sizes.pop(event.anchor or "", None)  # not an older value of that name
            self._values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._remember(anchor, self._values - before)
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_object(event)
            self._remember(event.anchor, 1)
            self._values += 1

    def _remember(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size

    def _size_of(self, alias: yaml.AliasEvent) -> int:
        if alias.anchor in self._sizes:
            return self._sizes[alias.anchor]
        raise ArchiveError(
            f"refers to &{alias.anchor}, which is not defined before or contains itself{_at(alias.start_mark)}"
        )


def _refuse_object(event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
    if event.tag and event.tag.startswith(_OBJECT_TAG):
        tag = event.tag.removeprefix("tag:yaml.org,2002:")
        raise ArchiveError(
            f"asks for a Python object by !!{tag[:60]}{_at(event.start_mark)}; only plain values are read"
        )


def _at(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
