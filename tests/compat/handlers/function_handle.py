"""A module-level ``handle``: called once with None to load, then for each batch."""

from typing import Any

calls: list[str] = []


def handle(data: Any, context: Any) -> Any:
    calls.append("load" if data is None else f"batch of {len(data)}")
    if data is None:
        return None
    return [{"calls": calls} for _ in data]
