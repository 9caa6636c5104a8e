"""Reads a handler project, as ``torchserve-lite init`` makes it or its author has it: a folder without a manifest,
whose files say what a manifest would."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from torchserve_lite.archive.builder import ArchiveRequest, manifest_text
from torchserve_lite.archive.entry_points import describe_entry_point, holds_a_network
from torchserve_lite.archive.formats import ModelFormat, format_of
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.errors import InvalidArchive

HANDLER, MODEL, REQUIREMENTS = "handler.py", "model.py", "requirements.txt"
CONFIGS = ("model-config.yaml", "model-config.yml", "model_config.yaml")
WEIGHTS = (".pt2", ".pt", ".pth", ".onnx", ".safetensors")

_NO_HANDLERS = ("test_", "conftest", "setup")  # how the names of such files begin


def project_manifest(folder: Path, name: str) -> dict[str, Any]:
    """The manifest that an archive of the project would have. ``name``: what its model is called.

    The handler is ``handler.py``, else the only file that can be one; the config ``model-config.yaml``; the weights the
    only file of such an ending, else the one called ``model``; the model file of a state dict ``model.py``, else the
    only file with one network in it. InvalidArchive where there is no handler, or where files leave it open.
    """
    handler = _handler(folder, name)
    weights = _weights(folder, name)
    request = ArchiveRequest(
        model_name=name,
        version="1.0",
        handler=handler,
        serialized_file=weights,
        model_file=_model_file(folder, weights, handler),
        requirements_file=_present(folder, REQUIREMENTS),
        config_file=_present(folder, *CONFIGS),
    )
    manifest: dict[str, Any] = json.loads(manifest_text(request, datetime.now()))
    return manifest


def _handler(folder: Path, name: str) -> str:
    if (folder / HANDLER).is_file():
        return HANDLER  # even one that cannot be read: its worker says why
    found = [file.name for file in _python_files(folder) if _can_handle(file)]
    if len(found) == 1:
        return found[0]
    several = f"has several files that can be its handler ({', '.join(found)})" if found else "has no handler"
    raise InvalidArchive(
        name,
        f"{several}. A project folder has its handler in {HANDLER}, or in the only file with a function handle or a "
        f"handler's class; torchserve-lite init makes one. For a default handler pack an archive: torchserve-lite "
        "archive --handler image_classifier ...",
    )


def _weights(folder: Path, name: str) -> str:
    found = sorted(file.name for file in folder.iterdir() if file.is_file() and file.suffix in WEIGHTS)
    chosen = found if len(found) == 1 else [file for file in found if Path(file).stem == "model"]
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        return ""
    raise InvalidArchive(
        name,
        f"has several files of weights ({', '.join(found)}). Call the one that is served model{Path(found[0]).suffix}, "
        "or move the others into a folder",
    )


def _model_file(folder: Path, weights: str, handler: str) -> str:
    if not weights or format_of(folder / weights) not in (ModelFormat.STATE_DICT, ModelFormat.SAFETENSORS):
        return ""
    if (folder / MODEL).is_file():
        return MODEL
    found = [file.name for file in _python_files(folder) if file.name != handler and _is_network(file)]
    return found[0] if len(found) == 1 else ""  # the handler may build its network itself


def _python_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.py")) if not file.name.startswith(_NO_HANDLERS)]


def _can_handle(file: Path) -> bool:
    try:
        return bool(describe_entry_point(file.parent, file.name))
    except ArchiveError:
        return False


def _is_network(file: Path) -> bool:
    try:
        return holds_a_network(file)
    except ArchiveError:
        return False


def _present(folder: Path, *names: str) -> str:
    return next((name for name in names if (folder / name).is_file()), "")
