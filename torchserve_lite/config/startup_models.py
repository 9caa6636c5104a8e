"""Which models to load at start: the keys ``load_models``, ``models`` and ``model_snapshot``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchserve_lite.config.values import Unacceptable
from torchserve_lite.core.options import ServingOptions

_PLACEHOLDER = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupList:
    """The models named by ``load_models`` or ``model_snapshot``; ``load_all``: whatever is in the model store."""

    load_all: bool = False
    models: tuple[ServingOptions, ...] = ()


def parse_load_models(value: str) -> StartupList:
    """``all``, or a comma list of ``file`` and ``name=file``. Blanks around commas are tolerated (0.12 is not)."""
    if value.lower() == "all":
        return StartupList(load_all=True)
    models = []
    for entry in filter(None, map(str.strip, value.split(","))):
        name, equals, url = (piece.strip() for piece in entry.partition("="))
        if not equals or "://" in name:  # the equals sign of a URL's query names nothing
            models.append(ServingOptions(url=entry))
        elif name and url:
            models.append(ServingOptions(url=url, name=name))
        else:
            raise Unacceptable(f'expected file or name=file, comma separated, and not "{entry}"')
    return StartupList(models=tuple(models))


def parse_models(value: str) -> Mapping[tuple[str, str], ServingOptions]:
    """The ``models`` key: per (name, version) what shall hold instead of the defaults. Values up to 0 mean nothing."""
    models = {}
    for name, version, where, fields in _versions(_json_object(value)):
        numbers = {field: number for field, number in _whole_numbers(where, fields).items() if number > 0}
        for field in ("parallelLevel", "workers"):  # of snapshots only
            numbers.pop(field, None)
        attributes: dict[str, Any] = _attributes(where, numbers) | _runtime(fields)
        models[name, version] = ServingOptions(name=name, version=version, **attributes)
    return models


def parse_model_snapshot(value: str) -> StartupList:
    """The inline snapshot of KServe's files and the one TorchServe saves; keys that are missing have defaults."""
    snapshot = _json_object(value)
    count = _whole_number(snapshot.get("modelCount", 1))
    if count is not None and count <= 0:
        return StartupList()
    models = snapshot.get("models")
    if not isinstance(models, dict):
        raise Unacceptable('expected {"models": {name: {version: {...}}}}; there is no object "models"')
    startup = StartupList(models=tuple(_snapshot_models(models)))
    defaults: dict[str | None, str | None] = {}
    for model in startup.models:
        if model.default_version and model.name in defaults:
            raise Unacceptable(
                f"model {model.name}: versions {defaults[model.name]} and {model.version} both say defaultVersion; "
                "one of them can be"
            )
        if model.default_version:
            defaults[model.name] = model.version
    return startup


def _snapshot_models(models: Mapping[str, Any]) -> Iterator[ServingOptions]:
    for name, version, where, fields in _versions(models):
        url = str(fields.get("marName") or f"{name}.mar")
        for word in (name, url):
            if _PLACEHOLDER.search(word):
                raise Unacceptable(
                    f'it still holds the placeholder "{word}"; put the model\'s name and the file name of its archive '
                    '(a .mar file in model_store, as "marName") there'
                )
        numbers = _whole_numbers(where, fields)
        for field, number in numbers.items():
            if number < _NUMBERS[field].minimum:
                raise Unacceptable(f"{where}: {field}={number}: expected at least {_NUMBERS[field].minimum}")
        attributes: dict[str, Any] = _attributes(where, numbers) | _runtime(fields)
        if handler := fields.get("handler"):
            attributes["handler"] = str(handler)
        only = len(models[name]) == 1
        yield ServingOptions(
            url=_registered_url(url, fields),
            name=None if fields.get("nameFromArchive") is True else name,
            version=version,
            default_version=str(fields.get("defaultVersion", only)).lower() == "true",
            loaded_at_startup=False,
            **attributes,
        )


def _registered_url(file: str, fields: Mapping[str, Any]) -> str:
    """What it was registered from, which says more than the file name that TorchServe keeps. That wins where somebody
    has changed it by hand."""
    url = str(fields.get("modelUrl") or "")
    return url if url.rstrip("/").rpartition("/")[2] == file else file


def missing_fields(value: str) -> Iterator[tuple[str, str, list[str]]]:
    """Of a ``model_snapshot`` that can be read: model, version, and what TorchServe would miss there."""
    snapshot = _json_object(value)
    if not isinstance(snapshot.get("models"), dict):
        return
    for name, version, _, fields in _versions(snapshot["models"]):
        missing = [field for field in _EXPECTED if fields.get(field) is None]
        if missing:
            yield name, version, missing


def snapshot_time(value: str) -> float:
    """When a ``model_snapshot`` was saved, in seconds since the epoch; 0 when it does not say."""
    created = _whole_number(_json_object(value).get("created"))
    return created / 1000 if created and 0 < created < _LARGEST_TIME else 0.0


def _json_object(value: str) -> dict[str, Any]:
    try:
        content = json.loads(value, object_pairs_hook=_once_each)
    except Unacceptable:
        raise
    except ValueError as error:
        hint = "a value over several lines needs a \\ at the end of each line but the last"
        raise Unacceptable(f"expected a JSON object; {error} ({hint})") from error
    except RecursionError as error:
        raise Unacceptable("expected a JSON object; this one is nested too deeply") from error
    if not isinstance(content, dict):
        raise Unacceptable("expected a JSON object")
    return content


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unacceptable(f'"{twice}" comes twice in one JSON object; which of them holds cannot be known')
    return content


def _versions(models: Mapping[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(name, version, words that name both in a message, fields)"""
    for name, versions in models.items():
        if not isinstance(versions, dict) or not versions:
            raise Unacceptable(f"model {name}: expected {{version: {{...}}}}")
        for version, fields in versions.items():
            where = f"model {name}, version {version}"
            if not isinstance(fields, dict):
                raise Unacceptable(f'{where}: expected an object such as {{"minWorkers": 1}}')
            yield name, version, where, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    """Where a JSON number goes in ``ServingOptions``, and what it counts."""

    attribute: str
    unit: float = 1  # 1: a count; otherwise seconds
    minimum: int = 0


_NUMBERS = {
    "minWorkers": _Number(attribute="min_workers"),
    "maxWorkers": _Number(attribute="max_workers"),
    "batchSize": _Number(attribute="batch_size", minimum=1),
    "maxBatchDelay": _Number(attribute="batch_delay", unit=0.001),
    "responseTimeout": _Number(attribute="response_timeout", unit=1.0, minimum=1),
    "startupTimeout": _Number(attribute="startup_timeout", unit=1.0, minimum=1),
    "parallelLevel": _Number(attribute="parallel_level"),
    "workers": _Number(attribute="workers"),
}
_EXPECTED = ("defaultVersion", "marName", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")
_LARGEST_TIME = 4_000_000_000_000  # milliseconds, after 2090
_LARGEST = 2**31 - 1  # as in Java; everything here is an int there


def _whole_numbers(where: str, fields: Mapping[str, Any]) -> dict[str, int]:
    numbers = {}
    for field in _NUMBERS:
        if (value := fields.get(field)) is None:
            continue
        if (count := _whole_number(value)) is None or count > _LARGEST:
            raise Unacceptable(f"{where}: {field}={value!r}: expected a whole number up to {_LARGEST}")
        numbers[field] = count
    return numbers


def _whole_number(value: Any) -> int | None:
    """Numeric strings count as numbers, as with TorchServe."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None


def _attributes(where: str, numbers: Mapping[str, int]) -> dict[str, float]:
    fewest, most = numbers.get("minWorkers"), numbers.get("maxWorkers")
    if fewest is not None and most is not None and fewest > most:
        raise Unacceptable(f"{where}: minWorkers={fewest} is larger than maxWorkers={most}")
    return {_NUMBERS[field].attribute: value * _NUMBERS[field].unit for field, value in numbers.items()}


def _runtime(fields: Mapping[str, Any]) -> dict[str, str]:
    runtime = fields.get("runtimeType")
    return {"runtime": str(runtime)} if runtime else {}
