"""``torchserve-lite inspect``: what is in an archive, what would run, and what will not work and why."""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchserve_lite.archive.inspection import Inspection, inspect_archive
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.errors import ArchiveNotFound
from torchserve_lite.workflows.archive import MANIFEST_PATH, WorkflowStore
from torchserve_lite.workflows.inspection import inspect_workflow

EXAMPLES = (
    "torchserve-lite inspect model_store/mnist.mar",
    "torchserve-lite inspect mnist.mar --json",
    "torchserve-lite inspect .",
    "torchserve-lite inspect pipeline.war",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="an archive of a model (.mar) or workflow (.war), or a project folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.epilog = "Nothing of the archive is run. The exit status is 1 when something in it will not work."


def run(arguments: argparse.Namespace) -> int:
    file: Path = arguments.file
    if not file.exists():
        raise ArchiveNotFound(f"There is no archive {file}.")
    with tempfile.TemporaryDirectory() as scratch:
        if _is_workflow(file):
            workflow = WorkflowStore(folder=file.parent, scratch=Path(scratch)).open_at(file.name, file)
            inspection, digest = inspect_workflow(workflow, file.parent), workflow.digest
        else:
            store = ModelStore(folder=file.parent, scratch=Path(scratch), projects=True)
            with store.open_at(file.resolve().name, file) as archive:
                inspection, digest = inspect_archive(archive), archive.digest
    if arguments.json:
        print(json.dumps({"sha256": digest, **asdict(inspection)}, indent=2, default=str))
    else:
        print("\n".join(_report(file, digest, inspection)))
    return 1 if inspection.problems else 0


def _is_workflow(file: Path) -> bool:
    """By its suffix, or by the manifest in it: an archive may be called anything."""
    if file.is_dir():
        return (file / MANIFEST_PATH).exists()
    if file.suffix == ".war":
        return True
    try:
        with zipfile.ZipFile(file) as archive:
            return MANIFEST_PATH in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False  # opening it says what is wrong with it


def _report(file: Path, digest: str, inspection: Inspection) -> Iterator[str]:
    yield f"{file}  {_size(sum(inspection.entries.values()))} in {len(inspection.entries)} files"
    if digest:
        yield f"sha256 {digest}"
    yield from _section("Manifest", _pairs(inspection.manifest or {}))
    yield from _section("Nodes" if "dag" in inspection.config else "Model config", _pairs(inspection.config))
    yield from _section("Entries", (f"{_size(size):>10}  {name}" for name, size in inspection.entries.items()))
    yield from _section("Entry point", [inspection.entry_point] if inspection.entry_point else [])
    yield from _section("Imports", (f"{package.name:<20} {package.where}" for package in inspection.imports))
    yield from _section("Worth knowing", inspection.notes)
    yield from _section("Will not work as it is", inspection.problems)
    yield "" if inspection.problems else "\nNo problems were found."


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield f"\n{title}"
    for line in listed:
        # An archive may hold escape sequences that would have their way with the terminal.
        yield "  " + "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def _pairs(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Nested mappings as dotted keys, so that each line stands for itself."""
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}: {value}"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
