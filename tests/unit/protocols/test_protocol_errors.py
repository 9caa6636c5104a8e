"""The one table of errors: nothing we raise is missing, and clients can rely on its shapes."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from torchserve_lite import errors
from torchserve_lite.protocols.errors import TABLE, ErrorForm, grpc_reply_to, reply_to

TORCHSERVE, KSERVE, OPENAI = ErrorForm.TORCHSERVE, ErrorForm.KSERVE, ErrorForm.OPENAI

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]

EXAMPLES: dict[type[Exception], Exception] = {
    errors.BodyTooLarge: errors.BodyTooLarge(100),
    errors.BodyTooSlow: errors.BodyTooSlow(100, 30.0),
    errors.HeadTooSlow: errors.HeadTooSlow(30.0),
    errors.TooManyConnections: errors.TooManyConnections(),
    errors.RouteNotFound: errors.RouteNotFound(),
    errors.MethodNotAllowed: errors.MethodNotAllowed(("GET", "PUT")),
    errors.ModelApiOff: errors.ModelApiOff(),
    errors.InvalidToken: errors.InvalidToken("Authorization"),
    errors.ReaderTooSlow: errors.ReaderTooSlow(),
    errors.AnswerNotTaken: errors.AnswerNotTaken(1000, 30.0),
    errors.ModelNotFound: errors.ModelNotFound("m"),
    errors.ModelVersionNotFound: errors.ModelVersionNotFound("m", "2.0"),
    errors.UnknownDefault: errors.UnknownDefault("m", "2.0"),
    errors.DefaultVersionKept: errors.DefaultVersionKept("m"),
    errors.DrainTimeout: errors.DrainTimeout("m", 120.0),
    errors.InvalidArchive: errors.InvalidArchive("m.mar", "is empty"),
    errors.NoRoom: errors.NoRoom("m.mar", "cannot be unpacked"),
    errors.InvalidWorkflow: errors.InvalidWorkflow("w.war", "has no dag"),
    errors.WorkflowNotRegistered: errors.WorkflowNotRegistered("w", ["pre: no such module"]),
    errors.NodeFailed: errors.NodeFailed("pre", "planted"),
    errors.NoWorkers: errors.NoWorkers("m"),
    errors.QueueFull: errors.QueueFull("m", 100),
    errors.TooManySequences: errors.TooManySequences("m", 2),
    errors.SequenceQueueFull: errors.SequenceQueueFull("m", "s", 2),
    errors.SequenceTimeout: errors.SequenceTimeout("m", "s", 30.0),
    errors.WorkerRestarting: errors.WorkerRestarting("m", "no such weights"),
    errors.ModelFailed: errors.ModelFailed("m", "no such weights"),
    errors.ModelNotRegistered: errors.ModelNotRegistered("m", "m.mar: is empty"),
    errors.ModelLoading: errors.ModelLoading("m"),
    errors.ShuttingDown: errors.ShuttingDown(),
    errors.DownloadFailed: errors.DownloadFailed("http://h/m.mar", "it is a web page."),
    errors.DeadlineExceeded: errors.DeadlineExceeded(0.5),
    errors.HandlerError: errors.HandlerError("no such customer", 404),
    errors.WorkerDied: errors.WorkerDied("It was shot."),
    errors.SlotFailed: errors.SlotFailed(ValueError("planted")),
    errors.ResponseTimeout: errors.ResponseTimeout(120, "handle"),
}


def example(kind: type[Exception]) -> Exception:
    return EXAMPLES[kind] if kind in EXAMPLES else kind("the cause")


def told(error: Exception, form: ErrorForm = TORCHSERVE) -> tuple[int, dict[str, Any], dict[str, str]]:
    reply = reply_to(error, form)
    return reply.status, json.loads(reply.json), dict(reply.headers)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_in_the_table(kind: type[errors.ServingError]) -> None:
    assert kind in TABLE


def test_table_holds_nothing_that_is_not_ours() -> None:
    assert set(TABLE) <= set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("form", [TORCHSERVE, KSERVE])
def test_body_is_the_triple_and_kserve_clients_find_their_error(kind: type[Exception], form: ErrorForm) -> None:
    error = example(kind)
    status, body, _ = told(error, form)
    assert list(body) == ["code", "type", "message", *(["error"] if form is KSERVE else [])]
    assert body["code"] == status
    assert {body["message"], body.get("error", str(error))} == {str(error)}


@pytest.mark.parametrize("kind", CLASSES)
def test_openai_clients_find_their_error(kind: type[Exception]) -> None:
    error = example(kind)
    status, body, _ = told(error, OPENAI)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["message"] == str(error)
    assert body["error"]["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_handler_that_has_enough_is_told_in_openais_words() -> None:
    assert told(errors.HandlerError("too many", 429), OPENAI)[1]["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.BadRequest("x"), 400, "BadRequestException"),
        (errors.BodyTooLarge(1), 413, "BadRequestException"),
        (errors.RouteNotFound(), 404, "ResourceNotFoundException"),
        (errors.MethodNotAllowed(), 405, "MethodNotAllowedException"),
        (errors.ModelApiOff(), 405, "MethodNotAllowedException"),
        (errors.InvalidToken("Authorization"), 401, "InvalidKeyException"),
        (errors.InvalidTokenAsBefore("Authorization"), 400, "InvalidKeyException"),
        (errors.HostNotAllowed("m"), 403, "ForbiddenException"),
        (errors.ModelNotFound("m"), 404, "ModelNotFoundException"),
        (errors.ModelVersionNotFound("m", "2"), 404, "ModelVersionNotFoundException"),
        (errors.Conflict("x"), 409, "ConflictStatusException"),
        (errors.DefaultVersionKept("m"), 403, "InvalidModelVersionException"),
        (errors.DrainTimeout("m", 1.0), 408, "RequestTimeoutException"),
        (errors.NoWorkers("m"), 503, "ServiceUnavailableException"),
        (errors.QueueFull("m", 1), 503, "ServiceUnavailableException"),
        (errors.DeadlineExceeded(1), 504, "RequestTimeoutException"),
        (errors.HandlerError("x", 418), 418, "InternalServerException"),
        (errors.WorkerDied("x"), 500, "InternalServerException"),
        (errors.WorkerKilled("x"), 507, "InternalServerException"),
        (errors.ResponseTimeout(1, "handle"), 500, "InternalServerException"),
        (errors.LoadFailed("x"), 500, "InternalServerException"),
        (ValueError("secret"), 500, "InternalServerException"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_status_and_type_are_torchserves(error: Exception, status: int, kind: str) -> None:
    found, body, _ = told(error)
    assert (found, body["type"]) == (status, kind)


@pytest.mark.parametrize(
    ("error", "form", "status"),
    [
        pytest.param(errors.PredictionFailed("Prediction failed"), TORCHSERVE, 503, id="handler, torchserve route"),
        pytest.param(errors.PredictionFailed("Prediction failed"), KSERVE, 500, id="handler, kserve route"),
        pytest.param(errors.PredictionFailed("Prediction failed"), OPENAI, 500, id="handler, openai route"),
        pytest.param(errors.OutOfMemory("x"), KSERVE, 507, id="out of memory"),
        pytest.param(errors.QueueFull("m", 1), KSERVE, 503, id="another pod may have room"),
    ],
)
def test_503_means_try_another_pod_on_kserve_routes(error: Exception, form: ErrorForm, status: int) -> None:
    assert told(error, form)[0] == status


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, errors.Unavailable)])
def test_unavailable_says_when_to_come_back(kind: type[Exception]) -> None:
    error = example(kind)
    assert isinstance(error, errors.Unavailable)
    assert told(error)[2] == {"Retry-After": str(error.retry_after)}


def test_refused_token_says_what_is_asked_for_unless_the_operator_wants_the_old_status() -> None:
    assert told(errors.InvalidToken("Authorization"))[2] == {"WWW-Authenticate": "Bearer"}
    assert told(errors.InvalidTokenAsBefore("Authorization"))[2] == {}


def test_refused_method_names_the_allowed_ones() -> None:
    assert told(errors.MethodNotAllowed(("GET", "PUT")))[2] == {"Allow": "GET, PUT"}


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, errors.ServingError)])
def test_every_error_has_a_status_code_of_grpc_unless_the_handler_chooses(kind: type[errors.ServingError]) -> None:
    code = TABLE[kind].grpc
    assert code in grpc.StatusCode.__members__ if TABLE[kind].status is not None else code is None
    reply = grpc_reply_to(example(kind))
    assert (reply.code, reply.message) == (code or "NOT_FOUND", str(example(kind)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("m"), "NOT_FOUND"),
        (errors.Conflict("x"), "ALREADY_EXISTS"),
        (errors.BadRequest("x"), "INVALID_ARGUMENT"),
        (errors.ModelApiOff(), "PERMISSION_DENIED"),
        (errors.InvalidToken("Authorization"), "UNAUTHENTICATED"),
        (errors.InvalidTokenAsBefore("Authorization"), "PERMISSION_DENIED"),
        (errors.DefaultVersionKept("m"), "FAILED_PRECONDITION"),
        (errors.QueueFull("m", 1), "RESOURCE_EXHAUSTED"),
        (errors.NoWorkers("m"), "UNAVAILABLE"),
        (errors.PredictionFailed("x"), "UNAVAILABLE"),
        (errors.WorkerDied("x"), "INTERNAL"),
        (errors.HandlerError("x", 404), "NOT_FOUND"),
        (errors.HandlerError("x", 429), "RESOURCE_EXHAUSTED"),
        (errors.HandlerError("x", 418), "FAILED_PRECONDITION"),
        (errors.HandlerError("x", 507), "INTERNAL"),
        (errors.HandlerError("x", 9), "INTERNAL"),
        (ValueError("secret"), "INTERNAL"),
    ],
)
def test_grpc_has_the_code_that_fits(error: Exception, code: str) -> None:
    assert grpc_reply_to(error).code == code


def test_grpc_tells_a_failed_handler_from_a_busy_server_in_kserves_form() -> None:
    assert grpc_reply_to(errors.PredictionFailed("x"), KSERVE).code == "INTERNAL"
    assert grpc_reply_to(errors.HandlerError("x", 503), KSERVE).code == "INTERNAL"
    assert grpc_reply_to(errors.NoWorkers("m"), KSERVE).code == "UNAVAILABLE"


def test_unexpected_error_tells_clients_nothing_of_the_inside() -> None:
    assert "secret" not in json.dumps(told(ValueError("secret path /etc"))[1])


def test_body_is_laid_out_as_torchserves() -> None:
    body = reply_to(errors.ModelNotFound("m\u00f6")).json
    assert body == (
        '{\n  "code": 404,\n  "type": "ModelNotFoundException",\n  "message": "Model not found: m\u00f6"\n}\n'.encode()
    )


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b", "ok \udc80"])
def test_message_that_cannot_be_encoded_is_told_all_the_same(text: str) -> None:
    status, body, _ = told(errors.BadRequest(text))
    assert (status, body["message"]) == (400, text.encode(errors="replace").decode())
