"""Text of a whole batch while ``model.generate`` still runs: the ``streamer`` argument for batched generation."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from typing import Any


class TextIteratorStreamerBatch:
    """Iterate over it in one thread while ``generate(..., streamer=this)`` runs in another.

    Yields one list per step, ``[{"text": ...}, ...]``, a piece for each sequence of the batch. A piece may be empty: it
    is held back until it ends at a blank or a line, because the next token may still change its last word. ``generate``
    must use ``num_beams=1``.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.batch_size = batch_size
        self.skip_prompt = skip_prompt
        self.timeout = timeout
        self._rows = [_Row(tokenizer, decode_kwargs) for _ in range(batch_size)]
        self._steps: Queue[list[dict[str, str]] | None] = Queue()
        self._at_prompt = True

    def put(self, value: Any) -> None:
        """``generate`` calls this with the prompt's token ids (one row per sequence), then with each step's tokens."""
        rows = value.reshape(self.batch_size, -1).tolist()
        prompt, self._at_prompt = self._at_prompt, False
        if prompt and self.skip_prompt:
            return
        self._steps.put([{"text": row.add(tokens)} for row, tokens in zip(self._rows, rows, strict=True)])

    def end(self) -> None:
        self._steps.put([{"text": row.rest()} for row in self._rows])
        self._steps.put(None)
        self._at_prompt = True

    def __iter__(self) -> TextIteratorStreamerBatch:
        return self

    def __next__(self) -> list[dict[str, str]]:
        step = self._steps.get(timeout=self.timeout)
        if step is None:
            raise StopIteration
        return step


class _Row:
    """One sequence: its tokens since the last line end, and how much of their text has been given out."""

    def __init__(self, tokenizer: Any, decode_kwargs: dict[str, Any]) -> None:
        self._decode: Callable[[list[int]], str] = lambda tokens: tokenizer.decode(tokens, **decode_kwargs)
        self._tokens: list[int] = []
        self._given = 0

    def add(self, tokens: list[int]) -> str:
        self._tokens += tokens
        text = self._decode(self._tokens)
        if text.endswith("\n"):
            return self._finish(text)
        end = text.rfind(" ") + 1
        piece, self._given = text[self._given : end], max(self._given, end)
        return piece

    def rest(self) -> str:
        return self._finish(self._decode(self._tokens)) if self._tokens else ""

    def _finish(self, text: str) -> str:
        piece = text[self._given :]
        self._tokens, self._given = [], 0
        return piece
