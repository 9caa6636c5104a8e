"""Two ways through the steps of a batch, whose text is one for handlers that are awaited and those that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Sequence
from typing import Any

from torchserve_lite.ipc.messages import Answer

Steps = Generator[Awaitable[Any], Any, Sequence[Answer]]
"""Yields what must be awaited for the batch to go on, is sent what that came to, and returns its last answers."""


def run(steps: Steps) -> Sequence[Answer]:
    """On the thread's event loop, which runs only while something is awaited: a plain handler may run coroutines of
    its own, which a loop that runs already would refuse."""
    try:
        awaitable = next(steps)
        while True:
            try:
                result = asyncio.get_event_loop().run_until_complete(_awaited(awaitable))
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                awaitable = steps.throw(error)
            else:
                awaitable = steps.send(result)
    except StopIteration as end:
        return _answers(end)


async def run_concurrently(steps: Steps) -> Sequence[Answer]:
    """In the calling task, beside others."""
    try:
        awaitable = next(steps)
        while True:
            try:
                result = await awaitable
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                awaitable = steps.throw(error)
            else:
                awaitable = steps.send(result)
    except StopIteration as end:
        return _answers(end)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _answers(end: StopIteration) -> Sequence[Answer]:
    answers: Sequence[Answer] = end.value
    return answers
