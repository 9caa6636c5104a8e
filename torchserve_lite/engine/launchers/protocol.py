"""What a worker may be told at once, and what it may say, since a handler may write to the worker's own link."""

from __future__ import annotations

from collections.abc import Sequence

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.streams import Buffer
from torchserve_lite.ipc.frames import problem_of
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, FailureKind, Reply


def refusal_of(batch: int, calls: int, pieces: Sequence[Buffer]) -> Answers | None:
    """The answers to a batch that is more than a worker takes at once; it would end of it."""
    problem = problem_of(pieces)
    if not problem:
        return None
    text = f"The batch of this request has {problem}. Send less, or lower batchSize."
    refusal = Reply(text.encode(), 413, failure=FailureKind.CODE)
    return Answers(batch, tuple([Answer(index, refusal) for index in range(calls)]), BatchDone())


def settle(message: Answers, batch: Sequence[Job], unanswered: set[int]) -> str:
    """Takes the calls that have their last answer in this message out of ``unanswered``. What is returned is wrong with
    it: a handler may have written to the link itself. Calls that nobody waits for need no answer."""
    for answer in message.answers:
        index, reply = answer.index, answer.reply
        if index not in unanswered:
            return f"an answer for request {index}, which is not open"
        if not reply.failure and not 200 <= reply.status <= 599:
            return f"the status {reply.status} for request {index}"
        if answer.last:
            unanswered.remove(index)
    if message.done is not None and (missing := sum(batch[index].wanted for index in unanswered)):
        return f"the end of a batch of which {missing} requests have no answer"
    return ""
