"""Results that a handler gives in steps: generators, or other iterators, whose items are the pieces of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

_WHOLE = {str, bytes, dict, list, int, float}

Waits = Generator[Awaitable[Any], Any, Any]
"""Yields what must be awaited before it can go on, as ``steps.Steps`` does."""


class Ended(NamedTuple):
    """In place of a piece: there are no more. ``value``: what a generator returned, its last piece."""

    value: Any = None


class Reader(Protocol):
    """Where the pieces of one row go."""

    def wants_more(self) -> bool:
        """False when its client has left."""

    def room(self) -> Awaitable[Any] | None:
        """To be awaited before the next step, when the client is behind."""

    def has_stepped(self) -> None:
        """Called after each step, also one without a piece."""

    def piece(self, value: Any) -> None:
        """ValueError when it cannot be sent."""

    def end(self, value: Any) -> None:
        """No more pieces; ``value`` is the last one, if it is not None."""

    def fail(self, error: BaseException) -> None: ...


def any_in_steps(results: Sequence[Any]) -> bool:
    # A generator expression would cost every batch more than the look itself.
    for result in results:  # noqa: SIM110
        if type(result) not in _WHOLE and comes_in_steps(result):
            return True
    return False


def comes_in_steps(result: Any) -> bool:
    """Whether it is an iterator; a file is one, too, but nobody means its lines."""
    kind = type(result)
    return hasattr(kind, "__anext__") or (hasattr(kind, "__next__") and not hasattr(kind, "read"))


def is_generator(results: Any) -> bool:
    """Of the handler's own function, whose steps are lists. Any other iterator might go from row to row."""
    return inspect.isgenerator(results) or inspect.isasyncgen(results)


def read(results: Sequence[Any], readers: Sequence[Reader], *, give_way: bool) -> Waits:
    """One step of each row's result in turn, until all have ended. Those that do not come in steps are left alone.

    ``give_way``: others run on this event loop, and a generator that never awaits anything would keep it to itself.
    """
    going = {row: result for row, result in enumerate(results) if comes_in_steps(result)}
    try:
        while going:
            for row, steps in list(going.items()):
                if (yield from _is_over(steps, readers[row], give_way)):
                    del going[row]
                    yield from _close(steps)
    finally:
        for steps in going.values():  # we are ended ourselves, and cannot await anything more
            if hasattr(steps, "close"):
                steps.close()


def read_together(
    results: Any, readers: Sequence[Reader], check: Callable[[Any], list[Any]], *, give_way: bool
) -> Waits:
    """The same for a handler that is a generator itself: each step gives a list with a piece for each row, or None for
    a row that has none this time. ``check`` makes sure of that."""
    wanted = [True] * len(readers)
    try:
        while any(wanted):
            for reader in readers:
                if (room := reader.room()) is not None:
                    yield room
            step = yield from _next(results, give_way)
            readers[0].has_stepped()
            ended = isinstance(step, Ended)
            pieces = [None] * len(readers) if ended and step.value is None else check(step.value if ended else step)
            for row, (reader, piece) in enumerate(zip(readers, pieces, strict=True)):
                wanted[row] = wanted[row] and reader.wants_more()
                if ended:
                    reader.end(piece)
                elif wanted[row] and piece is not None:
                    reader.piece(piece)
            if ended:
                return
    finally:
        yield from _close(results)


def _is_over(steps: Any, reader: Reader, give_way: bool) -> Waits:
    """Takes one step."""
    try:
        if (room := reader.room()) is not None:
            yield room
        if not reader.wants_more():
            raise asyncio.CancelledError("The client has left.")
        step = yield from _next(steps, give_way)
        reader.has_stepped()
        if isinstance(step, Ended):
            reader.end(step.value)
            return True
        if step is not None:
            reader.piece(step)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        reader.fail(error)
        return True
    return False


def _next(steps: Any, give_way: bool) -> Waits:
    if give_way:
        yield asyncio.sleep(0)  # also for an asynchronous one, which need not await anything itself
    if hasattr(type(steps), "__anext__"):
        try:
            return (yield steps.__anext__())
        except StopAsyncIteration:
            return Ended()
    try:
        return next(steps)
    except StopIteration as end:
        return Ended(end.value)


def _close(steps: Any) -> Waits:
    """A generator that has not ended runs its ``finally``; what goes wrong there is nobody's answer."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        if inspect.isasyncgen(steps):
            yield steps.aclose()
        elif hasattr(steps, "close"):
            steps.close()
