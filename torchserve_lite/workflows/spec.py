"""Reads a workflow's specification: its nodes with their settings, and the graph that joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torchserve_lite.archive.unpacking.entries import ArchiveError, shown
from torchserve_lite.archive.yaml_guard import read_yaml
from torchserve_lite.errors import InvalidDAG
from torchserve_lite.workflows.dag import Dag

_MOST_NODES = 100  # each is at least one process
_MOST_WORKERS = 1000
_MOST_RETRIES = 100
_LARGEST = 2**31 - 1
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """None: nothing was said, and what the node's model config says holds. Delays and timeouts are seconds."""

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    batch_delay: float | None = None
    retries: int = 1
    timeout: float = 10.0

    @property
    def workers(self) -> tuple[int, int]:
        """The fewest and the most."""
        low = 1 if self.min_workers is None else self.min_workers
        return low, max(1, low) if self.max_workers is None else self.max_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """``url`` names the archive of a model; "" for a function of the workflow's handler."""

    name: str
    url: str = ""
    settings: NodeSettings = NodeSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSpec:
    """``nodes`` are those of the graph, by name; ``settings`` are what holds for a node that says nothing else."""

    settings: NodeSettings
    nodes: Mapping[str, Node]
    dag: Dag
    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> WorkflowSpec:
        """An ArchiveError when it cannot be read, InvalidDAG when its graph is none."""
        raw = _mapping(read_yaml(data), "models and dag")
        if unknown := [shown(str(key)) for key in raw if key not in ("models", "dag")]:
            raise ArchiveError(f"has {', '.join(unknown)}, where only models and dag are known")
        models = _mapping(raw.get("models") or {}, "models")
        settings = _settings({key: value for key, value in models.items() if not isinstance(value, dict)}, "models")
        named = {_node_name(key): value for key, value in models.items() if isinstance(value, dict)}
        dag = Dag.of(_edges(raw.get("dag")))
        if len(dag.parents) > _MOST_NODES:
            raise InvalidDAG(f"The dag has {len(dag.parents)} nodes; {_MOST_NODES} are the most.")
        known = {name: _model_node(name, value, settings) for name, value in named.items()}
        functions = replace(settings, batch_size=None, batch_delay=None)
        nodes = {name: known.get(name) or Node(name=name, settings=functions) for name in dag.parents}
        unused = [name for name in known if name not in nodes]
        warnings = tuple(f"{name} stands under models and not in the dag: it is not loaded" for name in unused)
        return cls(settings=settings, nodes=nodes, dag=dag, warnings=warnings)


_KEYS = {  # name in the file: field, least and largest value, unit in seconds (None: a count)
    "min-workers": ("min_workers", 0, _MOST_WORKERS, None),
    "max-workers": ("max_workers", 1, _MOST_WORKERS, None),
    "batch-size": ("batch_size", 1, _LARGEST, None),
    "max-batch-delay": ("batch_delay", 0, _LARGEST, 0.001),
    "retry-attempts": ("retries", 0, _MOST_RETRIES, None),
    "timeout-ms": ("timeout", 1, _LARGEST, 0.001),
}


def _settings(raw: Mapping[str, object], where: str, globals_: NodeSettings | None = None) -> NodeSettings:
    """What ``raw`` says, and where it is silent the global ones. Those hold wherever they stand in the file: TorchServe
    has them hold for the nodes below them only."""
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _KEYS:
            raise ArchiveError(f"has {where}: {shown(str(key))}, which is neither a node nor one of {', '.join(_KEYS)}")
        field, least, most, unit = _KEYS[key]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            expected = f"a whole number from {least} to {most}"
            raise ArchiveError(f"has {where}: {key}: {shown(str(value))} where {expected} is expected")
        found[field] = value if unit is None else value * unit
    silent = {field.name: getattr(globals_, field.name) for field in fields(NodeSettings)} if globals_ else {}
    settings = NodeSettings(**(silent | found))
    low, high = settings.workers
    if low > high:
        raise ArchiveError(
            f"has {where}: min-workers: {low} above max-workers: {high}. Raise the one or lower the other"
        )
    return settings


def _model_node(name: str, raw: Mapping[str, object], settings: NodeSettings) -> Node:
    url = raw.get("url")
    if not isinstance(url, str) or not url:
        raise ArchiveError(
            f"has the model {name} without url: it must be the name of an archive, as when it is registered"
        )
    own = {key: value for key, value in raw.items() if key != "url"}
    return Node(name=name, url=url, settings=_settings(own, name, settings))


def _edges(raw: object) -> dict[str, tuple[str, ...]]:
    edges: dict[str, tuple[str, ...]] = {}
    for key, value in _mapping(raw, "dag").items():
        children = [] if value is None else value
        if not isinstance(children, list):
            raise ArchiveError(f"has dag: {shown(str(key))}: {shown(str(value))} where a list of nodes is expected")
        edges[_node_name(key)] = tuple(_node_name(child) for child in children)
    return edges


def _node_name(value: object) -> str:
    """It becomes part of a model's name and the name of a part of a request."""
    if not isinstance(value, str) or not value or any(sign in value for sign in "/\\") or not value.isprintable():
        raise ArchiveError(
            f"has the node {shown(str(value))}; a node's name is text without slashes and control characters"
        )
    if len(value) > _LONGEST_NAME:
        raise ArchiveError(f"has a node whose name is longer than {_LONGEST_NAME} characters")
    return value


def _mapping(value: object, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ArchiveError(f"has no {what}" if value is None else f"has no mapping where {what} should be")
    return value
