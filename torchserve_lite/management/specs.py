"""What an archive and the configuration say together: the spec of a model version.

Precedence is the documented one, weakest first: server configuration, ``models``, model-config.yaml, a management
call. A snapshot says exactly how a model was served, so its figures stand above the archive's.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TypeVar

from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive
from torchserve_lite.config.settings import ServingOptions, WorkerConfig
from torchserve_lite.core.models import BatchPolicy, DevicePolicy, ModelKey, ModelSpec, RecoveryPolicy
from torchserve_lite.errors import InvalidArchive

T = TypeVar("T")

_DEFAULT_DELAY = 0.1
_ASYNC_LANES = 64  # requests that a coroutine handler (asyncCommunication) has under way at most
_NO_OVERRIDE = ServingOptions(url="")


def model_key(archive: Archive, wanted: ServingOptions) -> ModelKey:
    """Name as asked for, else the manifest's, else the file's; the version is the manifest's."""
    name = wanted.name or archive.manifest.model_name or file_stem(archive.url)
    return ModelKey(name, archive.manifest.model_version)


def file_stem(url: str) -> str:
    """A model's name by its file (``mnist.mar`` -> ``mnist``); characters that a name may not have become ``_``."""
    stem = re.sub(r"\.(mar|model|tar\.gz|tgz)$", "", PurePosixPath(url).name)
    return re.sub(r"\W|^_", "_", stem)


def build_spec(
    archive: Archive,
    wanted: ServingOptions,
    override: ServingOptions | None,
    workers: WorkerConfig,
    default_workers: int,
) -> ModelSpec:
    """``override``: the entry of the ``models`` key for this version."""
    if archive.config.unserved:
        raise InvalidArchive(archive.url, f"{archive.config.unserved}.")
    order = _sources(archive, wanted, override or _NO_OVERRIDE)
    fewest, most = _worker_range(archive.url, order, default_workers)
    own = archive.config
    return ModelSpec(
        key=model_key(archive, wanted),
        archive_url=archive.url,
        digest=archive.digest,
        handler=_handler(archive, workers),
        runtime=wanted.runtime or archive.manifest.runtime,
        envelope=workers.service_envelope,
        min_workers=fewest,
        max_workers=most,
        batch=BatchPolicy(
            size=_or(_first(*(s.batch_size for s in order)), 1),
            delay=_or(_first(*(s.batch_delay for s in order)), _DEFAULT_DELAY),
        ),
        lanes=_ASYNC_LANES if own.async_communication else 1,
        queue_size=_or(own.job_queue_size, workers.queue_size),
        response_timeout=_or(_first(*(s.response_timeout for s in order)), workers.response_timeout),
        startup_timeout=_or(_first(*(s.startup_timeout for s in order)), workers.startup_timeout),
        client_timeout=own.client_timeout or None,
        recovery=RecoveryPolicy() if own.max_retry_timeout is None else RecoveryPolicy(window=own.max_retry_timeout),
        device=DevicePolicy(type=own.device_type, ids=own.device_ids or ()),
        parallel_type=own.parallel_type or "",
        parallel_level=own.parallel_level or 0,
        manifest=archive.manifest.raw,
        model_config=own.raw,
        loaded_at_startup=not wanted.from_snapshot,
    )


def features_to_come(config: ModelConfig) -> tuple[str, ...]:
    """What a model config asks for that is not built yet, as lines for the log: nothing of it is ignored in silence."""
    asked = {
        "useJobTicket": (config.use_job_ticket, "requests wait in the job queue"),
        "parallelType": (config.parallel_type, "each worker is one process"),
    }
    return tuple(f"{key} comes later and has no effect: {instead}." for key, (value, instead) in asked.items() if value)


def _sources(archive: Archive, wanted: ServingOptions, override: ServingOptions) -> tuple[ServingOptions, ...]:
    """Who says how many, how long and how large: strongest first."""
    config = archive.config
    yaml = ServingOptions(
        url="",
        min_workers=config.min_workers,
        max_workers=config.max_workers,
        batch_size=config.batch_size,
        batch_delay=config.max_batch_delay,
        response_timeout=config.response_timeout,
        startup_timeout=config.startup_timeout,
    )
    return (wanted, yaml, override)


def _worker_range(url: str, order: tuple[ServingOptions, ...], default: int) -> tuple[int, int]:
    low, high = _first(*(s.min_workers for s in order)), _first(*(s.max_workers for s in order))
    if low is not None and high is not None and low > high:
        raise InvalidArchive(url, f"minWorkers={low} is more than maxWorkers={high}: raise the one or lower the other.")
    fewest = _or(low, default if high is None else min(default, high))
    return fewest, _or(high, fewest)


def _handler(archive: Archive, workers: WorkerConfig) -> str:
    handler = archive.manifest.handler or workers.service_handler
    if not handler:
        raise InvalidArchive(
            archive.url,
            "its manifest names no handler; name one there or set default_service_handler in config.properties.",
        )
    return handler


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
