"""How a model version is to be served, as somebody has asked for it: the one shape that a model-config.yaml, the
``models`` key, a snapshot and a management call are read into.

A new option of a model is a field here, a line where it is read (``archive/model_config.py`` and, where they have it,
the other readers) and a line where it takes effect (``management/specs.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Torchrun:
    """How the processes of a parallel model are started; None where nothing was said."""

    nnodes: int | None = None
    nproc_per_node: int | None = None
    rdzv_backend: str | None = None
    rdzv_endpoint: str | None = None
    rdzv_conf: str | None = None
    monitor_interval: int | None = None
    node_rank: int | None = None
    omp_threads: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """None means that nothing was said about it here. Delays and timeouts are seconds."""

    # Which model, for whoever asks for one
    url: str = ""
    name: str | None = None
    version: str | None = None
    default_version: bool = False
    loaded_at_startup: bool | None = None  # False: it came by a call or a snapshot
    s3_sse_kms: bool = False
    workflow: str = ""  # of which it is a node; one without url is a function of its handler file
    # How it is served
    handler: str | None = None
    runtime: str | None = None
    workers: int | None = None  # between the bounds; without it as few as may be
    min_workers: int | None = None
    max_workers: int | None = None
    autoscale: bool | None = None
    batch_size: int | None = None
    batch_delay: float | None = None
    response_timeout: float | None = None
    startup_timeout: float | None = None
    client_timeout: float | None = None
    recovery_window: float | None = None
    queue_size: int | None = None
    device_type: str | None = None
    device_ids: tuple[int, ...] | None = None
    parallel_type: str | None = None
    parallel_level: int | None = None
    torchrun: Torchrun | None = None
    use_venv: bool | None = None
    use_job_ticket: bool | None = None
    async_communication: bool | None = None
    continuous_batching: bool | None = None
    sequence_batching: bool | None = None
    sequence_max_idle: float | None = None
    sequence_timeout: float | None = None
    max_num_sequence: int | None = None
    max_sequence_job_queue_size: int | None = None
    openai: bool | None = None

    def over(self, weaker: ServingOptions) -> ServingOptions:
        """These, and where they are silent the others."""
        silent = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return replace(self, **{name: getattr(weaker, name) for name in silent})
