"""What is served: keys, specs, policies and the status that management shows."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ModelKey(NamedTuple):
    """One served version of a model. Versions are text: ``1.0`` and ``1`` differ.

    A tuple, since every request looks several things up by it: a dataclass makes a tuple for each hash.
    """

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}_{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How jobs become batches: at most ``size`` jobs, waiting at most ``delay`` seconds after the oldest arrived."""

    size: int = 1
    delay: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceHeaders:
    """The headers by which requests and answers speak of sequences."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePolicy:
    """How many sequences there may be, and how long. ``most_waiting``: requests of one behind the one whose turn it is.
    Seconds: ``max_idle`` without a request, ``timeout`` as a whole (None: no limit)."""

    max_idle: float
    timeout: float | None = None
    most: int = 1
    most_waiting: int = 1
    headers: SequenceHeaders = SequenceHeaders()


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePolicy:
    """Where the workers of a model may run. ``type`` is ``cpu``, ``gpu`` or None (a GPU when there is one)."""

    type: str | None = None
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """``window``: seconds after the first failure during which a dead worker is tried again."""

    window: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor that a model takes or gives. ``datatype``: as the V2 protocol names it; -1 is a size that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model config says of a model's tensors, for those who ask for its metadata."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    platform: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """All an engine needs to serve one model version.

    The archive is named by ``archive_url`` (as registered) and ``digest`` (empty where nobody compares any); where it
    lies unpacked is the business of whoever launches a worker, because that may be on another machine.
    """

    key: ModelKey
    archive_url: str
    digest: str = ""
    handler: str  # as in the manifest: "module", "module.py" or "module:function"
    runtime: str = "python"
    lanes: int = 1  # batches a worker runs beside one another; more than one for coroutine and continuous handlers
    continuous: bool = False  # its handler is called again and again with all requests that are not finished
    envelope: str = ""  # service_envelope, when the server has one
    min_workers: int = 1
    max_workers: int = 1
    batch: BatchPolicy = BatchPolicy()
    sequences: SequencePolicy | None = None  # sequenceBatching: workers keep something of clients between requests
    queue_size: int = 100
    job_tickets: bool = False  # useJobTicket: no request waits for a worker that is busy
    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    client_timeout: float | None = None  # clientTimeoutInMills, in seconds
    recovery: RecoveryPolicy = RecoveryPolicy()
    device: DevicePolicy = DevicePolicy()
    parallel_type: str = ""
    parallel_level: int = 0
    launcher: str = ""  # "forked", "exec", "inline"; empty means the server's default
    python: str = ""  # interpreter for the exec launcher; empty means the server's own
    intra_op_threads: int | None = None  # torch threads a worker, when the model config fixes them
    manifest: Mapping[str, Any] | None = None
    model_config: Mapping[Any, Any] = field(default_factory=dict)
    signature: Signature | None = None
    autoscale: bool = True  # the number of workers follows the load between min_workers and max_workers
    loaded_at_startup: bool = False
    openai: bool = False  # its handler answers OpenAI's requests
    generation: int = 0  # of all that a server has opened to serve, no two have the same


class WorkerState(enum.StrEnum):
    """Life of a slot, as our own fields and metrics show it (management keeps TorchServe's two words)."""

    STARTING = "STARTING"
    READY = "READY"
    RESTARTING = "RESTARTING"
    STOPPING = "STOPPING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One slot of a pool. ``started`` is wall-clock seconds since the epoch; ``pid`` is None without a process."""

    id: str
    state: WorkerState
    started: float
    pid: int | None = None
    gpu_id: int | None = None
    failures: int = 0
    last_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What the engine knows about one model version at this moment."""

    key: ModelKey
    workers: tuple[WorkerStatus, ...]
    wanted: int  # slots the pool is asked to keep
    queued: int
    queue_size: int
    begun: bool = True  # False: it is registered, and nothing has been done to load it yet
    running: int = 0
    refused: int = 0  # requests since its pool began that found no free worker and may not wait (useJobTicket)
    busy: int = 0  # workers that could not take another batch now
    busy_seconds: float = 0.0  # that all workers together have spent on batches, those under way included
    cause: str = ""  # why a request would be refused at this moment; empty when it would not

    @property
    def ready_workers(self) -> int:
        return sum(w.state is WorkerState.READY for w in self.workers)

    @property
    def ready(self) -> bool:
        """All the workers asked for are up, and there is at least one."""
        return self.wanted > 0 and self.ready_workers >= self.wanted

    @property
    def failed(self) -> bool:
        """No worker is up or on its way: the recovery window has passed for all of them."""
        return bool(self.workers) and all(w.state is WorkerState.FAILED for w in self.workers)

    @property
    def last_failure(self) -> str:
        return next((w.last_failure for w in self.workers if w.last_failure), "")
