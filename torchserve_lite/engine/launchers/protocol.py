"""What a worker may say. A handler that writes to the worker's own link makes it say other things."""

from __future__ import annotations

from collections.abc import Sequence

from torchserve_lite.core.jobs import Job
from torchserve_lite.ipc.messages import Answers


def protocol_error(message: Answers, batch: Sequence[Job], unanswered: set[int]) -> str:
    """What is wrong with a message for a batch whose calls ``unanswered`` are open; a handler may have written to the
    link itself. Calls that nobody waits for need no answer."""
    left = set(unanswered)
    for answer in message.answers:
        if answer.index not in left:
            return f"an answer for request {answer.index}, which is not open"
        if not answer.reply.failure and not 200 <= answer.reply.status <= 599:
            return f"the status {answer.reply.status} for request {answer.index}"
        if answer.last:
            left.remove(answer.index)
    if message.done is not None and (missing := sum(batch[index].wanted for index in left)):
        return f"the end of a batch of which {missing} requests have no answer"
    return ""
