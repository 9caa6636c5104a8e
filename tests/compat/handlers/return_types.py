"""Everything a handler may put in its list, chosen by the request."""

from typing import Any

import numpy
import torch

ELEMENTS: dict[str, Any] = {
    "bytes": b"\x00\xff raw",
    "bytearray": bytearray(b"mutable"),
    "empty bytes": b"",
    "str": "plain \u00e9\u4e16",
    "empty str": "",
    "dict": {"b": 1, "a": [1, {"deep": "\u00e9"}], "z": None},
    "dict with int keys": {1: "one", 2.5: "two and a half", None: "none", False: "false"},
    "list": [1, [2, [3]], "four"],
    "empty list": [],
    "tuple": (1, "two"),
    "none": None,
    "true": True,
    "int": 42,
    "big int": 2**80,
    "float": 0.1,
    "exponent": 1e25,
    "nan": float("nan"),
    "infinity": float("-inf"),
    "tensor": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "set": {1},
    "array": numpy.arange(3),
    "numpy float32": numpy.float32(0.5),
    "numpy float64": numpy.float64(0.5),
    "nested tensor": {"x": torch.zeros(1)},
    "complex": 1j,
    "lone surrogate": "\ud800",
}


class ReturnTypes:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [ELEMENTS[row["body"]] for row in data]
