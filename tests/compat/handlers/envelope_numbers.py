"""Behind the v2 envelope: sums each input tensor, or explains it with one figure per element."""

from typing import Any

import numpy


class EnvelopeNumbers:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        tensors = [numpy.array(row["data"]) for row in data]
        if context.get_request_header(0, "explain") == "True":
            return [(tensor * 0.5).tolist() for tensor in tensors]
        return [tensor.sum().item() for tensor in tensors]
