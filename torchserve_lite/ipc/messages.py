"""What parent and child say to one another. Plain data of bytes, str and numbers, encoded as msgpack.

Deadlines are *remaining* seconds, never clock readings: another process (or machine) has its own clock.
"""

from __future__ import annotations

from typing import Any

import msgspec

from torchserve_lite.core.requests import Headers, Part


class Load(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Parent -> child, once: become the worker of this model."""

    model_name: str
    model_version: str
    model_dir: str
    handler: str
    manifest: dict[str, Any] | None
    model_config: dict[Any, Any] | None  # YAML has other keys than text
    envelope: str = ""
    batch_size: int = 1
    gpu_id: int | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    v2_output_names: str = "predict"
    max_response_size: int = 6553500
    threads: int = 0  # torch's intra-op threads; 0 leaves torch's own choice
    python_path: tuple[str, ...] = ()
    hidden_environment: str = ""  # regular expression of names the handler must not see


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One request of a batch, as the worker needs it. ``remaining``: seconds until its deadline, if it has one."""

    id: str
    verb: str
    parts: tuple[Part, ...]
    headers: Headers
    envelope: str = ""
    remaining: float | None = None
    trace_context: str = ""


class Predict(msgspec.Struct, frozen=True, tag=True):
    """Parent -> child: run these together. ``threads``: intra-op threads the worker may use from now on."""

    batch: int
    calls: tuple[Call, ...]
    threads: int = 0


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Parent -> child: nobody waits for call ``index`` of ``batch`` any more."""

    batch: int
    index: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: the handler is initialised."""

    seconds: float


class LoadFailure(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: the handler could not be loaded. ``fault`` is one line, ``traceback`` the handler's frames."""

    fault: str
    traceback: str
    out_of_memory: bool = False


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The answer to one call. ``failed``: ``body`` is a message and ``status`` the code it maps to."""

    body: bytes
    status: int = 200
    reason: str = ""
    content_type: str = ""
    headers: Headers = ()
    failed: bool = False
    from_handler: bool = True


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: a piece of the answer to call ``index``; more follow."""

    batch: int
    index: int
    reply: Reply


class Result(msgspec.Struct, frozen=True, tag=True):
    """Child -> parent: the last answers of a batch, one per call, in order."""

    batch: int
    replies: tuple[Reply, ...]
    handler_seconds: float = 0.0
    metrics: tuple[Metric, ...] = ()


class Metric(msgspec.Struct, frozen=True, array_like=True):
    """One update of a handler's own metric; ``kind`` is counter, gauge or histogram."""

    name: str
    kind: str
    unit: str
    value: float
    labels: tuple[tuple[str, str], ...]
    request_ids: str = ""


ToWorker = Load | Predict | Cancel
FromWorker = Loaded | LoadFailure | Chunk | Result
