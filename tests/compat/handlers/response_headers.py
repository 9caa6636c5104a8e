"""Headers and content type of the answer, set through the context and through its request processor."""

from typing import Any


class ResponseHeaders:
    def initialize(self, context: Any) -> None:
        context.set_response_status(500)  # no request yet: nothing happens

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        for index, row in enumerate(data):
            for name, value in row["body"]["headers"].items():
                context.set_response_header(index, name, value)
            if content_type := row["body"].get("type"):
                context.set_response_content_type(index, content_type)
            context.request_processor[index].add_response_property("X-Property", "set")
        return [{"type": context.get_response_content_type(index)} for index in range(len(data))]
