"""The door by which a handler streams: pieces of an answer, sent while it is still at work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torchserve_lite.ipc.messages import Answer, Reply
from torchserve_lite.worker.outputs import reply_of


class PieceTooLarge(ValueError):
    """Of a piece, or of all pieces that one answer is made of: raised where the handler sends it."""


class Receiver(Protocol):
    """The request of a row."""

    index: int
    request_id: str | None
    processor: Any
    answer_begun: bool

    @property
    def is_one_document(self) -> bool: ...


class KeptPieces:
    """The pieces of a row whose answer is one document, until the handler is done."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._size = 0  # in bytes, as they would have been sent

    def add(self, piece: Any, size: int, limit: int) -> None:
        self._size += size
        if self._size > limit:
            raise PieceTooLarge(f"The answer has more than max_response_size={limit} bytes.")
        self._pieces.append(piece)

    def whole(self, last: Any) -> Any:
        """Texts and bytes are joined; of other pieces it is a list. ``last``: what the handler returned for the row."""
        is_empty = last is None or (isinstance(last, str | bytes) and not last)
        pieces = self._pieces if is_empty else [*self._pieces, last]
        for kind in (str, bytes):
            if all(isinstance(piece, kind) for piece in pieces):
                return kind().join(pieces)
        return pieces


def piece_sender(
    owners: Sequence[Receiver],
    emit: Callable[[Sequence[Answer]], None],
    max_response_size: int,
    is_cancelled: Callable[[int], bool],
    kept: dict[int, KeptPieces],
    has_stepped: Callable[[], None],
) -> Callable[[int, Any, str], None]:
    """What a handler streams with. What is wrong with a piece is raised where the handler sends it, and when all its
    clients have left CancelledError, as a coroutine's that nobody waits for: a handler that goes on works for nobody.

    It goes to the request of that row, or to that ``request_id`` when it is another's: a thread that outlives its
    batch finds the next batch on the context, and what it has must not go to the client of that. Where an answer is one
    document, its pieces are ``kept`` for that, by row, and ``has_stepped`` is called for each.
    """

    def send(row: int, value: Any, request_id: str = "") -> None:
        owner = owners[row] if row < len(owners) else None
        if request_id and (owner is None or owner.request_id != request_id):
            owner = next((other for other in owners if other.request_id == request_id), None)
            if owner is None:
                raise ValueError(f"Request {request_id} is not being answered: nothing can be sent to it.")
            row = owners.index(owner)
        if owner is None:
            raise ValueError(f"There is no row {row} in this batch of {len(owners)}.")
        reply = reply_of(value, owner.processor)
        check_piece(reply, max_response_size)
        if owner.is_one_document:
            assert not isinstance(reply.body, int)
            kept.setdefault(row, KeptPieces()).add(value, len(reply.body), max_response_size)
            has_stepped()
        else:
            owner.answer_begun = True
            emit([Answer(owner.index, reply, last=False)])
        if is_cancelled(owner.index) and all(is_cancelled(other.index) for other in owners):
            raise asyncio.CancelledError("Nobody waits for the answer any more: the client has left.")

    return send


def check_piece(reply: Reply, limit: int) -> None:
    """PieceTooLarge when it is larger than ``max_response_size``, as a whole answer may not be either."""
    if too_large := excess_of(reply, limit, "A piece of the answer"):
        raise PieceTooLarge(too_large)


def excess_of(reply: Reply, limit: int, what: str = "The answer") -> str:
    """What is wrong with a reply that is larger than ``max_response_size``; empty when it is not."""
    assert not isinstance(reply.body, int)
    size = len(reply.body) + len(reply.reason)
    for name, value in reply.headers:
        size += len(name) + len(value)
    return f"{what} has {size} bytes, more than max_response_size={limit}." if size > limit else ""
