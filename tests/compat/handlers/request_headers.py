"""What the context tells of a request's headers: the client's spelling, additions of the server, repeated names."""

from typing import Any

ASKED = ("X-Custom", "x-custom", "explain", "url_path", "Absent")


class RequestHeaders:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [answer(context, index) for index in range(len(data))]


def answer(context: Any, index: int) -> dict[str, Any]:
    headers = context.get_all_request_header(index)
    return {
        "asked": {name: context.get_request_header(index, name) for name in ASKED},
        "sent": {name: value for name, value in sorted(headers.items()) if wanted(name)},
        "property": context.request_processor[index].get_request_property("X-Custom"),
    }


def wanted(name: str) -> bool:
    return name.lower().startswith(("x-", "content-type", "body", "explain", "url_path", "picture"))
