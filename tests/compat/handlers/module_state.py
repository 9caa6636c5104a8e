"""State on the module, on the handler and on the context; all of it lives as long as the worker."""

from typing import Any

seen = 0


class Stateful:
    def __init__(self) -> None:
        self.count = 0

    def initialize(self, context: Any) -> None:
        context.cache = {"since": "initialize"}

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        global seen
        seen += 1
        self.count += 10
        context.cache[f"call {seen}"] = self.count
        return [{"module": seen, "handler": self.count, "context": context.cache} for _ in data]
