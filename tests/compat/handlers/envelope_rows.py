"""Answers with the rows an envelope gave it; a dict of ``answer`` in the first row is answered instead."""

from typing import Any


class EnvelopeRows:
    def initialize(self, context: Any) -> None:
        pass

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        if isinstance(data[0], dict) and "answer" in data[0]:
            return data[0]["answer"]
        return [plain(row) for row in data]


def plain(row: Any) -> Any:
    if isinstance(row, bytes | bytearray):
        return {"bytes": row.decode("latin-1"), "type": type(row).__name__}
    if isinstance(row, dict):
        return {name: plain(value) for name, value in row.items()}
    return row
