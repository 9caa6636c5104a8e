"""The one table: which status each of our exceptions has on the wire, and the body that tells of it.

``type`` keeps TorchServe's class names, because clients switch on them.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_lite import errors


@dataclass(frozen=True, slots=True)
class ErrorMapping:
    """``status`` None: the handler chose it, and the exception carries it."""

    status: int | None
    type: str


TABLE: dict[type[errors.ServingError], ErrorMapping] = {
    errors.BadRequest: ErrorMapping(400, "BadRequestException"),
    errors.InvalidInput: ErrorMapping(400, "InternalServerException"),
    errors.ConfigurationError: ErrorMapping(400, "BadRequestException"),
    errors.BodyTooLarge: ErrorMapping(413, "BadRequestException"),
    errors.BodyTooSlow: ErrorMapping(408, "RequestTimeoutException"),
    errors.HeadTooSlow: ErrorMapping(408, "RequestTimeoutException"),
    errors.MalformedRequest: ErrorMapping(400, "BadRequestException"),
    errors.UnknownCoding: ErrorMapping(501, "BadRequestException"),
    errors.ExpectationFailed: ErrorMapping(417, "BadRequestException"),
    errors.RouteNotFound: ErrorMapping(404, "ResourceNotFoundException"),
    errors.MethodNotAllowed: ErrorMapping(405, "MethodNotAllowedException"),
    errors.ModelApiOff: ErrorMapping(405, "MethodNotAllowedException"),
    errors.InvalidToken: ErrorMapping(401, "InvalidKeyException"),
    errors.InvalidTokenAsBefore: ErrorMapping(400, "InvalidKeyException"),
    errors.Forbidden: ErrorMapping(403, "ForbiddenException"),
    errors.HostNotAllowed: ErrorMapping(403, "ForbiddenException"),
    errors.OriginNotAllowed: ErrorMapping(403, "ForbiddenException"),
    errors.NotFound: ErrorMapping(404, "ResourceNotFoundException"),
    errors.ModelNotFound: ErrorMapping(404, "ModelNotFoundException"),
    errors.ModelVersionNotFound: ErrorMapping(404, "ModelVersionNotFoundException"),
    errors.UnknownDefault: ErrorMapping(404, "ModelVersionNotFoundException"),
    errors.ArchiveNotFound: ErrorMapping(404, "ModelNotFoundException"),
    errors.WorkflowNotFound: ErrorMapping(404, "WorkflowNotFoundException"),
    errors.WorkflowArchiveNotFound: ErrorMapping(404, "WorkflowNotFoundException"),
    errors.Conflict: ErrorMapping(409, "ConflictStatusException"),
    errors.UnregisteredMeanwhile: ErrorMapping(409, "ConflictStatusException"),
    errors.DownloadFailed: ErrorMapping(400, "DownloadArchiveException"),
    errors.DefaultVersionKept: ErrorMapping(403, "InvalidModelVersionException"),
    errors.DrainTimeout: ErrorMapping(408, "RequestTimeoutException"),
    errors.InvalidArchive: ErrorMapping(400, "InvalidModelException"),
    errors.NoRoom: ErrorMapping(507, "InternalServerException"),
    errors.InvalidWorkflow: ErrorMapping(400, "InvalidWorkflowException"),
    errors.InvalidDAG: ErrorMapping(400, "InvalidDAGException"),
    errors.WorkflowNotRegistered: ErrorMapping(500, "WorkflowException"),
    errors.Unavailable: ErrorMapping(503, "ServiceUnavailableException"),
    errors.NoWorkers: ErrorMapping(503, "ServiceUnavailableException"),
    errors.QueueFull: ErrorMapping(503, "ServiceUnavailableException"),
    errors.WorkerRestarting: ErrorMapping(503, "ServiceUnavailableException"),
    errors.ModelFailed: ErrorMapping(503, "ServiceUnavailableException"),
    errors.ModelNotRegistered: ErrorMapping(503, "ServiceUnavailableException"),
    errors.ModelLoading: ErrorMapping(503, "ServiceUnavailableException"),
    errors.ShuttingDown: ErrorMapping(503, "ServiceUnavailableException"),
    errors.TooManyConnections: ErrorMapping(503, "ServiceUnavailableException"),
    errors.DeadlineExceeded: ErrorMapping(504, "RequestTimeoutException"),
    errors.OutOfMemory: ErrorMapping(507, "InternalServerException"),
    errors.PredictionFailed: ErrorMapping(503, "InternalServerException"),
    errors.HandlerError: ErrorMapping(None, "InternalServerException"),
    errors.AnswerTooLarge: ErrorMapping(500, "InternalServerException"),
    errors.NodeFailed: ErrorMapping(500, "InternalServerException"),
    errors.WorkerFailure: ErrorMapping(500, "InternalServerException"),
    errors.WorkerDied: ErrorMapping(500, "InternalServerException"),
    errors.WorkerKilled: ErrorMapping(507, "InternalServerException"),
    errors.ResponseTimeout: ErrorMapping(500, "InternalServerException"),
    errors.LoadFailed: ErrorMapping(500, "InternalServerException"),
    errors.LoadOutOfMemory: ErrorMapping(507, "InternalServerException"),
    errors.SlotFailed: ErrorMapping(500, "InternalServerException"),
    errors.ServingError: ErrorMapping(500, "InternalServerException"),
}

_UNEXPECTED = ErrorMapping(500, "InternalServerException")


class ErrorForm(enum.Enum):
    """How a group of routes tells of an error: the triple that TorchServe's clients read, or the triple and ``error``,
    which KServe's clients read."""

    TORCHSERVE = "torchserve"
    KSERVE = "kserve"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    status: int
    body: Mapping[str, object]
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> bytes:
        """A message may quote text that has no encoding; it must not cost the client its answer."""
        return (json.dumps(self.body, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")


def status_of(kind: type[errors.ServingError], form: ErrorForm) -> int | None:
    """The status of all errors of one kind; None when the handler chooses it."""
    status = TABLE[kind].status
    return None if status is None else _in_form(status, kind, form)


def _in_form(status: int, kind: type[Exception], form: ErrorForm) -> int:
    """In KServe 503 means "try another pod", so that a handler's own failure is 500 in its form."""
    return 500 if form is ErrorForm.KSERVE and status == 503 and issubclass(kind, errors.PredictionFailed) else status


def reply_to(error: Exception, form: ErrorForm = ErrorForm.TORCHSERVE) -> ErrorReply:
    """The reply that tells of ``error``."""
    mapping = TABLE.get(type(error), _UNEXPECTED) if isinstance(error, errors.ServingError) else _UNEXPECTED
    status = mapping.status if mapping.status is not None else int(getattr(error, "code", 500))
    if not 200 <= status <= 599:
        status = 500  # a code that a handler raised, which is no status of an HTTP answer
    status = _in_form(status, type(error), form)
    message = str(error) if isinstance(error, errors.ServingError) else "The server failed; its log says why."
    body: dict[str, object] = {"code": status, "type": mapping.type, "message": message}
    if form is ErrorForm.KSERVE:
        body["error"] = message
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.Unavailable):
        headers = (("Retry-After", str(error.retry_after)),)
    elif status == 401:
        headers = (("WWW-Authenticate", "Bearer"),)
    elif isinstance(error, errors.MethodNotAllowed) and error.allowed:
        headers = (("Allow", ", ".join(error.allowed)),)
    return ErrorReply(status, body, headers)
