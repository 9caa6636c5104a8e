"""Status and reason phrase chosen by the handler; its own body is sent along, errors included."""

from typing import Any


class ResponseStatus:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        for index, row in enumerate(data):
            context.set_response_status(row["body"]["code"], row["body"].get("phrase", ""), index)
        return [{"status": context.get_response_status(index)} for index in range(len(data))]
