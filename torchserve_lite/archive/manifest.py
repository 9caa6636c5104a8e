"""Reads MAR-INF/MANIFEST.json: what an archive says it holds and how it wants to be served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchserve_lite.archive.unpacking.entries import MIB, ArchiveError, name_problem, shown
from torchserve_lite.errors import InvalidArchive

MANIFEST_PATH = "MAR-INF/MANIFEST.json"
RUNTIMES = ("python", "python3", "LSP")

_LARGEST = MIB
_LONGEST_NAME = 255
_TEXTS = {
    "handler": "handler",
    "serializedFile": "serialized_file",
    "modelFile": "model_file",
    "requirementsFile": "requirements_file",
    "configFile": "config_file",
    "sourceVocab": "source_vocab",
}
_IN_THE_ARCHIVE = ("serializedFile", "modelFile", "requirementsFile", "configFile", "sourceVocab")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest's fields, "" where it has none. ``raw`` is the parsed file, for the handler; None without a file."""

    model_name: str = ""
    model_version: str = "1.0"
    handler: str = ""
    runtime: str = "python"
    serialized_file: str = ""
    model_file: str = ""
    requirements_file: str = ""
    config_file: str = ""
    source_vocab: str = ""
    created_on: str = ""
    archiver_version: str = ""
    raw: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def default(cls) -> Manifest:
        """What TorchServe assumes of an archive without a manifest."""
        return cls(warnings=(f"has no {MANIFEST_PATH}: its name and handler must be given when it is registered",))

    @classmethod
    def read(cls, folder: Path, archive: str) -> Manifest:
        """The manifest of the model unpacked in ``folder``; ``archive`` names it in messages."""
        file = folder / MANIFEST_PATH
        if not file.is_file():
            return cls.default()
        try:
            return _manifest(read_object(file))
        except ArchiveError as error:
            raise InvalidArchive(archive, f"{MANIFEST_PATH}: {error}") from error

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Manifest:
        """Of the parsed file; an ArchiveError says what is wrong with it."""
        return _manifest(raw)


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of somebody else's; an ArchiveError says what is wrong with it."""
    with file.open("rb") as opened:
        data = opened.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ArchiveError(f"is larger than {_LARGEST:,} bytes")
    try:
        manifest = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise ArchiveError(f"is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ArchiveError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise ArchiveError("is nested too deeply") from error
    except ValueError as error:  # CPython refuses integers of thousands of digits
        raise ArchiveError(f"is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ArchiveError(f"must hold an object, not {kind_of(manifest)}")
    return manifest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys counts, so there must be one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ArchiveError(f"has the key {shown(key)} twice")
        found[key] = value
    return found


def _manifest(raw: dict[str, Any]) -> Manifest:
    model = raw.get("model")
    if model is None:
        raise ArchiveError("Missing Model entry in manifest file.")
    if not isinstance(model, dict):
        raise ArchiveError(f"model must be an object, not {kind_of(model)}")
    runtime = raw.get("runtime", "python")
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise ArchiveError(
            f"Runtime is not defined or invalid. It is {shown(str(runtime))}; known: {', '.join(RUNTIMES)}."
        )
    created_on, archiver_version = _string(raw, "createdOn"), _string(raw, "archiverVersion")
    return Manifest(
        model_name=checked_name(_string(model, "modelName"), "modelName"),
        model_version=_version(model),
        runtime=runtime,
        created_on=created_on,
        archiver_version=archiver_version,
        raw=raw,
        warnings=() if created_on and archiver_version else ("its manifest has no createdOn or no archiverVersion",),
        **{field: _string(model, key) for key, field in _TEXTS.items()},
    )


def _string(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ArchiveError(f"{key} must be a string, not {kind_of(value)}")
    if key in _IN_THE_ARCHIVE:
        _refuse_outside(key, value)
    elif key == "handler":
        _refuse_outside(key, value.rpartition(":")[0] or value)
    return value


def _refuse_outside(key: str, value: str) -> None:
    """A path within the archive is fine (TorchServe joins it to the model's folder), one that leaves it is not."""
    if problem := name_problem(value):
        raise ArchiveError(f"{key} {shown(value)} {problem}")


def checked_name(value: str, key: str) -> str:
    """A name that can stand in a path of a request and in a file name."""
    if any(sign in value for sign in "/\\") or not value.isprintable():
        raise ArchiveError(f"{key} {shown(value)} may not contain slashes, backslashes or control characters")
    if len(value) > _LONGEST_NAME:
        raise ArchiveError(f"{key} is longer than {_LONGEST_NAME} characters")
    return value


def _version(model: Mapping[str, Any]) -> str:
    """Text in our sense, but TorchServe also takes a bare number for it."""
    value = model.get("modelVersion", "1.0")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise ArchiveError("Model version is not defined.")
    return checked_name(_string({"modelVersion": value}, "modelVersion"), "modelVersion")


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
