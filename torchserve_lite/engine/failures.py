"""What the failure of one request in a worker is for its client."""

from __future__ import annotations

from torchserve_lite.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    HandlerError,
    InvalidInput,
    OutOfMemory,
    PredictionFailed,
    ServingError,
)
from torchserve_lite.ipc.messages import FailureKind, Reply


def failure_of(reply: Reply) -> ServingError:
    """``reply.failure`` is a FailureKind; one that a newer worker may have made up counts as the handler's failure."""
    assert not isinstance(reply.body, int)
    message = bytes(reply.body).decode("utf-8", "replace")
    if reply.failure == FailureKind.CODE:
        return HandlerError(message, reply.status)
    if reply.failure == FailureKind.DEADLINE:
        return DeadlineExceeded()
    classes: dict[str, type[ServingError]] = {
        FailureKind.REFUSED: InvalidInput,
        FailureKind.MEMORY: OutOfMemory,
        FailureKind.TOO_LARGE: AnswerTooLarge,
    }
    return classes.get(reply.failure, PredictionFailed)(message)
