"""A ``handle`` of its own is called with an empty row when the model is described."""

from typing import Any


class DescribesItself:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [{"row": row, "describe": context.get_request_header(0, "describe")} for row in data]
