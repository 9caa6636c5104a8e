"""Continuous batching: called again with each unfinished request until its criterion says it is done.

A criterion gives False (more follows), True (that was the last piece) or None (the whole answer at once); True for an
answer in one piece leaves TorchServe's client waiting for ever.
"""

from collections.abc import Callable
from typing import Any

Criterion = Callable[[Any], bool | None]


class Continuous:
    def initialize(self, context: Any) -> None:
        self.left: dict[str, list[str]] = {}

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        steps = [self.step(context.get_request_id(index), row) for index, row in enumerate(data)]
        context.stopping_criteria = [criterion for _, criterion in steps]
        return [word for word, _ in steps]

    def step(self, request_id: str, row: dict[str, Any]) -> tuple[str, Criterion]:
        word, *left = self.left.pop(request_id, None) or row["body"].split()
        if left:
            self.left[request_id] = left
            return word, lambda _: False
        return word, lambda _: None if row else True
