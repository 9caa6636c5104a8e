"""Exceptions that are nobody's plan, chosen by the request."""

from typing import Any

ERRORS: dict[str, BaseException] = {
    "value": ValueError("seven is not a colour"),
    "memory": MemoryError("no room"),
    "cuda": RuntimeError("CUDA error: device-side assert triggered"),
    "key": KeyError("missing"),
}


class Raises:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        if error := ERRORS.get(data[0]["body"]):
            raise error
        return ["fine"]
