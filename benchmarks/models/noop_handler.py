"""The handler that does nothing: what is left when a server runs it is the server's own cost."""

from typing import Any

ANSWER = "ok"


class Noop:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[str]:
        return [ANSWER] * len(data)
