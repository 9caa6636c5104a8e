"""The handler that answers with what it was sent: what is left when a server runs it is the way there and back."""

from typing import Any


class Echo:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        return [row["body"] for row in data]
