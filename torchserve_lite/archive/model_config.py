"""Reads model-config.yaml: the keys that say how a model is served. The handler gets the whole mapping besides.

A file that is no YAML, that contradicts itself or that has a value of the wrong type is an error, where TorchServe went
on as if it said nothing. A value outside its range is ignored with a warning, as in TorchServe. Empty means absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.tensor_signature import read_signature
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.archive.yaml_guard import read_yaml
from torchserve_lite.core.models import Signature
from torchserve_lite.core.options import ServingOptions, Torchrun
from torchserve_lite.errors import InvalidArchive

_LARGEST_INT = 2**31 - 1  # TorchServe takes longs for values of the wrong type
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """``options``: what the file says about serving; ``signature``: about its tensors. ``raw`` is the whole file."""

    options: ServingOptions = field(default_factory=ServingOptions)
    signature: Signature | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path, manifest: Manifest, archive: str) -> ModelConfig:
        """The config file the manifest of the model in ``folder`` names; ``archive`` names the model in messages."""
        if not manifest.config_file:
            return cls()
        file = folder / manifest.config_file
        if not file.is_file():
            return cls(warnings=(f"its manifest names the config file {manifest.config_file}, which it does not hold",))
        try:
            return cls.parse(file.read_bytes())
        except ArchiveError as error:
            raise InvalidArchive(archive, f"{manifest.config_file} {error}") from error

    @property
    def unserved(self) -> str:
        """Why a model with this config is refused; "" when it can be served.

        Without a time limit for idle sequences TorchServe serves none, and answers each request with 503.
        """
        if self.options.sequence_batching and not self.options.sequence_max_idle:
            return (
                "its model config has sequenceBatching: true without sequenceMaxIdleMSec, the milliseconds without a "
                "request after which a sequence ends and its place is free. Say how long that may be, for example "
                "sequenceMaxIdleMSec: 60000"
            )
        return ""

    @classmethod
    def parse(cls, data: bytes) -> ModelConfig:
        raw = read_yaml(data)
        if raw is None:
            return cls()
        if not isinstance(raw, dict):
            raise ArchiveError(f"must hold a mapping of keys to values, not a {type(raw).__name__}")
        values, warnings = _serving_values(raw)
        least, most = values.get("min_workers"), values.get("max_workers")
        if least and most and least > most:
            raise ArchiveError(f"has minWorkers: {least} above maxWorkers: {most}. Raise maxWorkers or leave it out")
        signature = read_signature(raw["tensorSignature"]) if raw.get("tensorSignature") is not None else None
        return cls(options=ServingOptions(**values), signature=signature, raw=raw, warnings=warnings)


class _WrongType(Exception):
    """What was expected."""


class _OutOfRange(Exception):
    """Why a value is ignored."""


Reader = Callable[[object], Any]
Keys = Mapping[str, tuple[str, Reader]]


def _serving_values(raw: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    values, warnings, wrong = _read(raw, _KEYS)
    if isinstance(torchrun := raw.get("torchrun"), dict):
        found, more, also_wrong = _read(torchrun, _TORCHRUN_KEYS)
        unknown = [f"{key} is not known" for key in torchrun if key not in _TORCHRUN_KEYS]
        values["torchrun"] = Torchrun(**found)
        warnings += [f"torchrun: {warning}" for warning in more + unknown]
        wrong += [f"torchrun: {problem}" for problem in also_wrong]
        # nproc-per-node is the level too; of the two the one that comes later in the file counts.
        keys = list(raw)
        later = "parallelLevel" not in raw or keys.index("torchrun") > keys.index("parallelLevel")
        if values["torchrun"].nproc_per_node and later:
            values["parallel_level"] = values["torchrun"].nproc_per_node
    if wrong:
        raise ArchiveError(f"has {'; '.join(wrong)}")
    if values.get("device_type") == "cpu" and values.get("device_ids"):
        warnings.append("deviceIds is ignored, since deviceType is cpu")
    if not values.get("sequence_max_idle"):  # without which the other limits of sequences do not count
        for name in ("sequence_timeout", "max_num_sequence", "max_sequence_job_queue_size"):
            values.pop(name, None)
    return values, tuple(warnings)


def _read(raw: Mapping[str, Any], keys: Keys) -> tuple[dict[str, Any], list[str], list[str]]:
    """The values, warnings of those that are ignored, and what is wrong with others."""
    values: dict[str, Any] = {}
    warnings, wrong = [], []
    for key, (name, reader) in keys.items():
        try:
            if raw.get(key) is not None:
                values[name] = reader(raw[key])
        except _OutOfRange as error:
            warnings.append(f"{key}: {str(raw[key])[:80]} is ignored, {error}")
        except _WrongType as error:
            wrong.append(f"{key}: {_shown(raw[key])} where {error} is expected")
    return values, warnings, wrong


def _shown(value: object) -> str:
    """With the quotes that make "2" a text."""
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongType("a whole number")
    if abs(value) > _LARGEST_INT:
        raise _WrongType(f"a whole number up to {_LARGEST_INT}")
    return value


def _at_least(least: int) -> Reader:
    def read(value: object) -> int:
        if (number := _integer(value)) < least:
            raise _OutOfRange(f"it must be at least {least}")
        return number

    return read


def _raised_to_one(value: object) -> int:
    return max(1, _integer(value))


def _unless_zero(value: object) -> int | None:
    """Where TorchServe means "not set" by zero."""
    return _at_least(0)(value) or None


def _milliseconds(value: object) -> float | None:
    number = _unless_zero(value)
    return number / 1000 if number else None


def _seconds(least: int) -> Reader:
    return lambda value: float(_at_least(least)(value))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongType("true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongType("text")
    return value


def _one_of(*known: str) -> Reader:
    def read(value: object) -> str:
        if (word := _text(value).lower()) not in known:
            raise _OutOfRange(f"it must be one of {', '.join(known)}")
        return word

    return read


def _device_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise _WrongType("a list of whole numbers")
    return tuple(_at_least(0)(number) for number in value)


def _mapping(value: object) -> None:
    if not isinstance(value, dict):
        raise _WrongType("a mapping")


_KEYS: Keys = {
    "minWorkers": ("min_workers", _raised_to_one),
    "maxWorkers": ("max_workers", _unless_zero),
    "autoscale": ("autoscale", _flag),
    "batchSize": ("batch_size", _raised_to_one),
    "maxBatchDelay": ("batch_delay", _milliseconds),
    "responseTimeout": ("response_timeout", _seconds(1)),
    "startupTimeout": ("startup_timeout", _seconds(1)),
    "clientTimeoutInMills": ("client_timeout", _milliseconds),
    "maxRetryTimeoutInSec": ("recovery_window", _seconds(0)),
    "jobQueueSize": ("queue_size", _unless_zero),
    "deviceType": ("device_type", _one_of("cpu", "gpu")),
    "deviceIds": ("device_ids", _device_ids),
    "parallelType": ("parallel_type", _one_of("pp", "tp", "pptp", "custom")),
    "parallelLevel": ("parallel_level", _unless_zero),
    "torchrun": ("torchrun", _mapping),
    "useVenv": ("use_venv", _flag),
    "useJobTicket": ("use_job_ticket", _flag),
    "asyncCommunication": ("async_communication", _flag),
    "continuousBatching": ("continuous_batching", _flag),
    "sequenceBatching": ("sequence_batching", _flag),
    "sequenceMaxIdleMSec": ("sequence_max_idle", _milliseconds),
    "sequenceTimeoutMSec": ("sequence_timeout", _milliseconds),
    "maxNumSequence": ("max_num_sequence", _raised_to_one),
    "maxSequenceJobQueueSize": ("max_sequence_job_queue_size", _raised_to_one),
    "openai": ("openai", _flag),
}

_TORCHRUN_KEYS: Keys = {
    "nnodes": ("nnodes", _at_least(1)),
    "nproc-per-node": ("nproc_per_node", _at_least(1)),
    "rdzv-backend": ("rdzv_backend", _text),
    "rdzv-endpoint": ("rdzv_endpoint", _text),
    "rdzv-conf": ("rdzv_conf", _text),
    "monitor-interval": ("monitor_interval", _at_least(0)),
    "node-rank": ("node_rank", _at_least(0)),
    "OMP_NUMBER_THREADS": ("omp_threads", _at_least(1)),
}
