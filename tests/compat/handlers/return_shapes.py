"""Answers that are no list of the batch's length, chosen by the request."""

from typing import Any

import torch

ANSWERS: dict[str, Any] = {
    "tuple": ("a",),
    "dict": {"a": 1},
    "none": None,
    "str": "x",
    "bytes": b"x",
    "tensor": torch.zeros(1),
    "generator": (n for n in range(1)),
    "empty list": [],
    "two for one": ["a", "b"],
    "one": ["right"],
}


class ReturnShapes:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> Any:
        return ANSWERS[data[0]["body"]]
