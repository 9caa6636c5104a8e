"""Says what is in a workflow archive, and what will not work, without running any of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchserve_lite.archive.inspection import Inspection, entries_of, packages_missing
from torchserve_lite.archive.manifest import read_object
from torchserve_lite.archive.source_code import imported_packages
from torchserve_lite.archive.store import is_url
from torchserve_lite.workflows.archive import MANIFEST_PATH, WorkflowArchive
from torchserve_lite.workflows.spec import Node


def inspect_workflow(archive: WorkflowArchive, store: Path) -> Inspection:
    """``store``: the folder that its models are expected in, beside the archive. What makes it no workflow at all has
    been raised when it was opened."""
    functions = [name for name, node in archive.spec.nodes.items() if not node.url]
    imports = imported_packages(archive.path, [archive.path / archive.handler]) if functions else ()
    return Inspection(
        entries=entries_of(archive.path),
        manifest=read_object(archive.path / MANIFEST_PATH),
        config={
            "nodes": {name: _shown(node, archive.handler) for name, node in archive.spec.nodes.items()},
            "dag": {name: ", ".join(children) or "the answer" for name, children in _edges(archive)},
        },
        entry_point="",
        imports=imports,
        problems=tuple(packages_missing([package.name for package in imports if package.missing])),
        notes=(*archive.spec.warnings, *_models_elsewhere(archive, store)),
    )


def _shown(node: Node, handler: str) -> dict[str, Any]:
    """As the specification names its settings, with what holds where it says nothing."""
    settings = node.settings
    low, high = settings.workers
    shown: dict[str, Any] = {"model": node.url} if node.url else {"function": f"{node.name} in {handler}"}
    shown |= {"min-workers": low, "max-workers": high}
    if settings.batch_size is not None:
        shown["batch-size"] = settings.batch_size
    if settings.batch_delay is not None:
        shown["max-batch-delay"] = round(settings.batch_delay * 1000)
    return shown | {"retry-attempts": settings.retries, "timeout-ms": round(settings.timeout * 1000)}


def _edges(archive: WorkflowArchive) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in archive.spec.nodes:
        yield name, archive.spec.dag.edges.get(name, ())


def _models_elsewhere(archive: WorkflowArchive, store: Path) -> Iterator[str]:
    for node in archive.spec.nodes.values():
        if node.url and not is_url(node.url) and not (store / node.url).exists():
            yield f"the node {node.name} needs {node.url} in the model store; it does not lie beside this archive"
