"""What an archive and the configuration say together: the spec of a model version.

Precedence is the documented one, weakest first: server configuration, ``models``, model-config.yaml, a management
call. A snapshot says exactly how a model was served, so its figures stand above the archive's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from torchserve_lite.archive.built_in_handlers import OPENAI_HANDLERS
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive, last_part
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import (
    BatchPolicy,
    DevicePolicy,
    ModelKey,
    ModelSpec,
    RecoveryPolicy,
    SequencePolicy,
)
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import InvalidArchive

T = TypeVar("T")

_DEFAULT_DELAY = 0.1
_ASYNC_LANES = 256  # requests that a coroutine handler (asyncCommunication) has under way at most
_NO_OVERRIDE = ServingOptions()
_NO_LIMIT = float(2**31 - 1)  # seconds; TorchServe's word for never
_FOR_A_DEBUGGER: Mapping[str, Any] = {
    "min_workers": 1,
    "max_workers": 1,
    "response_timeout": _NO_LIMIT,
    "startup_timeout": _NO_LIMIT,
    "client_timeout": None,
}


def model_key(archive: Archive, wanted: ServingOptions) -> ModelKey:
    """Name as asked for, else the manifest's, else the file's; the version is the manifest's."""
    name = wanted.name or archive.manifest.model_name or file_stem(archive.url)
    return ModelKey(name, archive.manifest.model_version)


def file_stem(url: str) -> str:
    """A model's name by its file (``mnist.mar`` -> ``mnist``); characters that a name may not have become ``_``."""
    stem = re.sub(r"\.(mar|model|tar\.gz|tgz)$", "", last_part(url))
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
        raise InvalidArchive(archive.name, f"{archive.config.unserved}.")
    of_the_manifest = ServingOptions(handler=archive.manifest.handler or None, runtime=archive.manifest.runtime)
    of_the_server = ServingOptions(
        handler=workers.service_handler,
        autoscale=workers.autoscale,
        batch_size=1,
        batch_delay=_DEFAULT_DELAY,
        response_timeout=workers.response_timeout,
        startup_timeout=workers.startup_timeout,
        recovery_window=RecoveryPolicy().window,
        queue_size=workers.queue_size,
    )
    options = wanted.over(archive.config.options).over(override or _NO_OVERRIDE)
    if workers.debug:
        options = replace(options, **_FOR_A_DEBUGGER)
    sequences = _sequences(options, workers) if options.sequence_batching else None
    if sequences is not None:  # a worker that is given up takes along what its handler keeps of them
        options = options.over(ServingOptions(autoscale=False))
    fewest, most = _worker_range(archive.name, options, default_workers)
    options = options.over(of_the_manifest).over(of_the_server)
    if options.runtime == "LSP":
        raise InvalidArchive(archive.name, "its runtime is LSP, for handlers in C++, which this server does not run.")
    handler = _said(options.handler) or _no_handler(archive)
    return ModelSpec(
        key=model_key(archive, wanted),
        archive_url=archive.url,
        digest=archive.digest,
        handler=handler,
        runtime=_said(options.runtime),
        envelope=workers.service_envelope,
        min_workers=fewest,
        max_workers=most,
        autoscale=_said(options.autoscale),
        batch=BatchPolicy(size=_said(options.batch_size), delay=_said(options.batch_delay)),
        lanes=_lanes(options),
        continuous=bool(options.continuous_batching),
        sequences=sequences,
        queue_size=_said(options.queue_size),
        job_tickets=bool(options.use_job_ticket),
        response_timeout=_said(options.response_timeout),
        startup_timeout=_said(options.startup_timeout),
        client_timeout=options.client_timeout or None,
        recovery=RecoveryPolicy(window=_said(options.recovery_window)),
        device=DevicePolicy(type=options.device_type, ids=options.device_ids or ()),
        parallel_type=options.parallel_type or "",
        parallel_level=options.parallel_level or 0,
        manifest=archive.manifest.raw,
        model_config=archive.config.raw,
        signature=archive.config.signature,
        loaded_at_startup=wanted.loaded_at_startup is not False,
        openai=_module(handler) in OPENAI_HANDLERS if options.openai is None else options.openai,
    )


def _lanes(options: ServingOptions) -> int:
    """A continuous handler has batchSize requests, each of which joins it as a batch of its own; of sequences, which
    wait for their clients now and then, twice as many, as in TorchServe."""
    if options.continuous_batching:
        return _said(options.batch_size) * (2 if options.sequence_batching else 1)
    return _ASYNC_LANES if options.async_communication else 1


def features_to_come(config: ModelConfig) -> tuple[str, ...]:
    """What a model config asks for that is not built yet, as lines for the log: nothing of it is ignored in silence."""
    asked = {
        "parallelType": (config.options.parallel_type, "each worker is one process"),
    }
    return tuple(f"{key} comes later and has no effect: {instead}." for key, (value, instead) in asked.items() if value)


def _sequences(options: ServingOptions, workers: WorkerConfig) -> SequencePolicy:
    return SequencePolicy(
        max_idle=_said(options.sequence_max_idle),
        timeout=options.sequence_timeout or None,
        most=options.max_num_sequence or 1,
        most_waiting=options.max_sequence_job_queue_size or 1,
        headers=workers.sequence_headers,
    )


def _worker_range(url: str, options: ServingOptions, default: int) -> tuple[int, int]:
    low, high = options.min_workers, options.max_workers
    if low is not None and high is not None and low > high:
        raise InvalidArchive(url, f"minWorkers={low} is more than maxWorkers={high}: raise the one or lower the other.")
    if low is None:
        low = default if high is None else min(default, high)
    return low, low if high is None else high


def _module(handler: str) -> str:
    """``vllm_handler``, ``vllm_handler.py`` and ``vllm_handler:VLLMHandler`` are the same one."""
    return handler.partition(":")[0].removesuffix(".py")


def _no_handler(archive: Archive) -> str:
    raise InvalidArchive(
        archive.name,
        "its manifest names no handler; name one there or set default_service_handler in config.properties.",
    )


def _said(value: T | None) -> T:
    """Of an option that the server itself has a value for."""
    assert value is not None
    return value
