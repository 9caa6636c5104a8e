"""A handler of its own that looks at the ``explain`` header, whatever set it."""

from typing import Any


def handle(data: Any, context: Any) -> Any:
    if data is None:
        return None
    return [{"explain": context.get_request_header(index, "explain")} for index in range(len(data))]
