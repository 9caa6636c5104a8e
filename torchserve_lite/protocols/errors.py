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
    """``status`` of HTTP and ``grpc``, the name of a status code of gRPC; None: the handler chose it, and the exception
    carries it."""

    status: int | None
    grpc: str | None
    type: str


TABLE: dict[type[errors.ServingError], ErrorMapping] = {
    errors.BadRequest: ErrorMapping(400, "INVALID_ARGUMENT", "BadRequestException"),
    errors.InvalidInput: ErrorMapping(400, "INVALID_ARGUMENT", "InternalServerException"),
    errors.ConfigurationError: ErrorMapping(400, "INVALID_ARGUMENT", "BadRequestException"),
    errors.BodyTooLarge: ErrorMapping(413, "RESOURCE_EXHAUSTED", "BadRequestException"),
    errors.BodyTooSlow: ErrorMapping(408, "DEADLINE_EXCEEDED", "RequestTimeoutException"),
    errors.HeadTooSlow: ErrorMapping(408, "DEADLINE_EXCEEDED", "RequestTimeoutException"),
    errors.MalformedRequest: ErrorMapping(400, "INVALID_ARGUMENT", "BadRequestException"),
    errors.UnknownCoding: ErrorMapping(501, "UNIMPLEMENTED", "BadRequestException"),
    errors.ExpectationFailed: ErrorMapping(417, "FAILED_PRECONDITION", "BadRequestException"),
    errors.RouteNotFound: ErrorMapping(404, "UNIMPLEMENTED", "ResourceNotFoundException"),
    errors.MethodNotAllowed: ErrorMapping(405, "UNIMPLEMENTED", "MethodNotAllowedException"),
    errors.ModelApiOff: ErrorMapping(405, "PERMISSION_DENIED", "MethodNotAllowedException"),
    errors.InvalidToken: ErrorMapping(401, "UNAUTHENTICATED", "InvalidKeyException"),
    errors.InvalidTokenAsBefore: ErrorMapping(400, "PERMISSION_DENIED", "InvalidKeyException"),
    errors.Forbidden: ErrorMapping(403, "PERMISSION_DENIED", "ForbiddenException"),
    errors.ConsoleClosed: ErrorMapping(403, "PERMISSION_DENIED", "ForbiddenException"),
    errors.HostNotAllowed: ErrorMapping(403, "PERMISSION_DENIED", "ForbiddenException"),
    errors.OriginNotAllowed: ErrorMapping(403, "PERMISSION_DENIED", "ForbiddenException"),
    errors.NotFound: ErrorMapping(404, "NOT_FOUND", "ResourceNotFoundException"),
    errors.ModelNotFound: ErrorMapping(404, "NOT_FOUND", "ModelNotFoundException"),
    errors.NoOpenAIModel: ErrorMapping(404, "NOT_FOUND", "ModelNotFoundException"),
    errors.ModelVersionNotFound: ErrorMapping(404, "NOT_FOUND", "ModelVersionNotFoundException"),
    errors.UnknownDefault: ErrorMapping(404, "NOT_FOUND", "ModelVersionNotFoundException"),
    errors.ArchiveNotFound: ErrorMapping(404, "NOT_FOUND", "ModelNotFoundException"),
    errors.WorkflowNotFound: ErrorMapping(404, "NOT_FOUND", "WorkflowNotFoundException"),
    errors.WorkflowArchiveNotFound: ErrorMapping(404, "NOT_FOUND", "WorkflowNotFoundException"),
    errors.Conflict: ErrorMapping(409, "ALREADY_EXISTS", "ConflictStatusException"),
    errors.UnregisteredMeanwhile: ErrorMapping(409, "ABORTED", "ConflictStatusException"),
    errors.DownloadFailed: ErrorMapping(400, "INVALID_ARGUMENT", "DownloadArchiveException"),
    errors.DefaultVersionKept: ErrorMapping(403, "FAILED_PRECONDITION", "InvalidModelVersionException"),
    errors.DrainTimeout: ErrorMapping(408, "DEADLINE_EXCEEDED", "RequestTimeoutException"),
    errors.InvalidArchive: ErrorMapping(400, "INVALID_ARGUMENT", "InvalidModelException"),
    errors.NoRoom: ErrorMapping(507, "RESOURCE_EXHAUSTED", "InternalServerException"),
    errors.InvalidWorkflow: ErrorMapping(400, "INVALID_ARGUMENT", "InvalidWorkflowException"),
    errors.InvalidDAG: ErrorMapping(400, "INVALID_ARGUMENT", "InvalidDAGException"),
    errors.WorkflowNotRegistered: ErrorMapping(500, "INTERNAL", "WorkflowException"),
    errors.Unavailable: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.NoWorkers: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.QueueFull: ErrorMapping(503, "RESOURCE_EXHAUSTED", "ServiceUnavailableException"),
    errors.NoIdleWorker: ErrorMapping(503, "RESOURCE_EXHAUSTED", "ServiceUnavailableException"),
    errors.TooManySequences: ErrorMapping(503, "RESOURCE_EXHAUSTED", "ServiceUnavailableException"),
    errors.SequenceQueueFull: ErrorMapping(503, "RESOURCE_EXHAUSTED", "ServiceUnavailableException"),
    errors.SequenceTimeout: ErrorMapping(503, "ABORTED", "ServiceUnavailableException"),
    errors.WorkerRestarting: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.ModelFailed: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.ModelNotRegistered: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.ModelLoading: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.ShuttingDown: ErrorMapping(503, "UNAVAILABLE", "ServiceUnavailableException"),
    errors.TooManyConnections: ErrorMapping(503, "RESOURCE_EXHAUSTED", "ServiceUnavailableException"),
    errors.DeadlineExceeded: ErrorMapping(504, "DEADLINE_EXCEEDED", "RequestTimeoutException"),
    errors.ReaderTooSlow: ErrorMapping(408, "RESOURCE_EXHAUSTED", "InternalServerException"),
    errors.AnswerNotTaken: ErrorMapping(408, "RESOURCE_EXHAUSTED", "InternalServerException"),
    errors.OutOfMemory: ErrorMapping(507, "INTERNAL", "InternalServerException"),
    errors.PredictionFailed: ErrorMapping(503, "UNAVAILABLE", "InternalServerException"),
    errors.HandlerError: ErrorMapping(None, None, "InternalServerException"),
    errors.InvalidAnswer: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.AnswerTooLarge: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.NodeFailed: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.WorkerFailure: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.WorkerDied: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.WorkerKilled: ErrorMapping(507, "INTERNAL", "InternalServerException"),
    errors.ResponseTimeout: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.LoadFailed: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.LoadOutOfMemory: ErrorMapping(507, "INTERNAL", "InternalServerException"),
    errors.SlotFailed: ErrorMapping(500, "INTERNAL", "InternalServerException"),
    errors.ServingError: ErrorMapping(500, "INTERNAL", "InternalServerException"),
}

_UNEXPECTED = ErrorMapping(500, "INTERNAL", "InternalServerException")


class ErrorForm(enum.Enum):
    """How a group of routes tells of an error: the triple that TorchServe's clients read, the triple and ``error``,
    which KServe's clients read, or the object ``error`` of OpenAI's."""

    TORCHSERVE = "torchserve"
    KSERVE = "kserve"
    OPENAI = "openai"


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
    """In KServe 503 means "try another pod", so that a handler's own failure is 500 where TorchServe's form is not
    asked for."""
    if form is not ErrorForm.TORCHSERVE and status == 503 and issubclass(kind, errors.PredictionFailed):
        return 500
    return status


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
    elif form is ErrorForm.OPENAI:
        body = {"error": _openai_error(error, status, message)}
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, errors.Unavailable):
        headers = (("Retry-After", str(error.retry_after)),)
    elif status == 401:
        headers = (("WWW-Authenticate", "Bearer"),)
    elif isinstance(error, errors.MethodNotAllowed) and error.allowed:
        headers = (("Allow", ", ".join(error.allowed)),)
    return ErrorReply(status, body, headers)


def _openai_error(error: Exception, status: int, message: str) -> Mapping[str, object]:
    """OpenAI's own words for what its clients may tell apart; they come again by themselves after 408, 409, 429 and
    5xx, when ``Retry-After`` says so."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    code = None
    if isinstance(error, errors.InvalidToken):
        code = "invalid_api_key"
    elif isinstance(error, errors.ModelNotFound):
        code = "model_not_found"
    return {"message": message, "type": kind, "param": "model" if code == "model_not_found" else None, "code": code}


_GRPC_OF_HANDLERS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True, slots=True)
class GrpcReply:
    """``code``: the name of a status code of gRPC. ``retry_after``: seconds, where coming back makes sense."""

    code: str
    message: str
    type: str
    retry_after: int | None = None

    @property
    def details(self) -> str:
        """The message, and in a line of its own the type, as TorchServe writes it."""
        return f"{self.message}\n{self.type}"


def grpc_reply_to(error: Exception, form: ErrorForm = ErrorForm.TORCHSERVE) -> GrpcReply:
    """The same for gRPC. A status that a handler chose is told as TorchServe translates it."""
    reply = reply_to(error, form)
    status = reply.status
    mapping = TABLE.get(type(error), _UNEXPECTED) if isinstance(error, errors.ServingError) else _UNEXPECTED
    code = mapping.grpc
    if code is None:
        code = _GRPC_OF_HANDLERS.get(status, "FAILED_PRECONDITION" if 400 <= status < 500 else "INTERNAL")
    elif status == 500:
        code = "INTERNAL"  # also what is 503 in the other form
    return GrpcReply(
        code,
        str(reply.body["message"]),
        str(reply.body["type"]),
        error.retry_after if isinstance(error, errors.Unavailable) else None,
    )
