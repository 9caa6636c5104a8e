"""The one table: which status each of our exceptions has on the wire, and the body that tells of it.

``type`` keeps TorchServe's class names, because clients switch on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_lite import errors


@dataclass(frozen=True, slots=True)
class Wire:
    """``status`` None: the handler chose it, and the exception carries it."""

    status: int | None
    type: str


TABLE: dict[type[errors.ServingError], Wire] = {
    errors.BadRequest: Wire(400, "BadRequestException"),
    errors.InvalidInput: Wire(400, "InternalServerException"),
    errors.ConfigurationError: Wire(400, "BadRequestException"),
    errors.BodyTooLarge: Wire(413, "BadRequestException"),
    errors.RouteNotFound: Wire(404, "ResourceNotFoundException"),
    errors.MethodNotAllowed: Wire(405, "MethodNotAllowedException"),
    errors.NotFound: Wire(404, "ResourceNotFoundException"),
    errors.ModelNotFound: Wire(404, "ModelNotFoundException"),
    errors.ModelVersionNotFound: Wire(404, "ModelVersionNotFoundException"),
    errors.ArchiveNotFound: Wire(404, "ModelNotFoundException"),
    errors.Conflict: Wire(409, "ConflictStatusException"),
    errors.InvalidArchive: Wire(400, "InvalidModelException"),
    errors.Unavailable: Wire(503, "ServiceUnavailableException"),
    errors.NoWorkers: Wire(503, "ServiceUnavailableException"),
    errors.QueueFull: Wire(503, "ServiceUnavailableException"),
    errors.WorkerRestarting: Wire(503, "ServiceUnavailableException"),
    errors.ModelFailed: Wire(503, "ServiceUnavailableException"),
    errors.ModelLoading: Wire(503, "ServiceUnavailableException"),
    errors.DeadlineExceeded: Wire(504, "RequestTimeoutException"),
    errors.OutOfMemory: Wire(507, "InternalServerException"),
    errors.PredictionFailed: Wire(503, "InternalServerException"),
    errors.HandlerError: Wire(None, "InternalServerException"),
    errors.AnswerTooLarge: Wire(500, "InternalServerException"),
    errors.WorkerFailure: Wire(500, "InternalServerException"),
    errors.WorkerDied: Wire(500, "InternalServerException"),
    errors.WorkerKilled: Wire(507, "InternalServerException"),
    errors.ResponseTimeout: Wire(500, "InternalServerException"),
    errors.LoadFailed: Wire(500, "InternalServerException"),
    errors.LoadOutOfMemory: Wire(507, "InternalServerException"),
    errors.SlotFailed: Wire(500, "InternalServerException"),
    errors.ServingError: Wire(500, "InternalServerException"),
}

_UNEXPECTED = Wire(500, "InternalServerException")


@dataclass(frozen=True, slots=True)
class ErrorReply:
    status: int
    told: Mapping[str, object]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> bytes:
        return (json.dumps(self.told, indent=2, ensure_ascii=False) + "\n").encode()


def reply_to(error: Exception, *, kserve: bool = False) -> ErrorReply:
    """The reply that tells of ``error``. ``kserve``: for V1 and V2 routes, where clients read ``error``, and where 503
    means "try another pod", so that a handler's own failure is 500 there."""
    wire = TABLE.get(type(error), _UNEXPECTED) if isinstance(error, errors.ServingError) else _UNEXPECTED
    status = _status(error, wire, kserve)
    message = str(error) if isinstance(error, errors.ServingError) else "The server failed; its log says why."
    told: dict[str, object] = {"code": status, "type": wire.type, "message": message}
    if kserve:
        told["error"] = message
    return ErrorReply(status, told, _headers(error))


def _status(error: Exception, wire: Wire, kserve: bool) -> int:
    status = wire.status if wire.status is not None else int(getattr(error, "code", 500))
    if kserve and status == 503 and isinstance(error, errors.PredictionFailed):
        return 500
    return status


def _headers(error: Exception) -> tuple[tuple[str, str], ...]:
    if isinstance(error, errors.Unavailable):
        return (("Retry-After", str(error.retry_after)),)
    if isinstance(error, errors.MethodNotAllowed) and error.allowed:
        return (("Allow", ", ".join(error.allowed)),)
    return ()
