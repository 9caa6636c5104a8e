"""A module with both a ``handle`` and a class: the function wins."""

from typing import Any


class NeverUsed:
    def initialize(self, context: Any) -> None:
        raise AssertionError("the function is the entry point")

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return ["class" for _ in data]


def handle(data: Any, context: Any) -> Any:
    return None if data is None else ["function" for _ in data]
