"""A class without a base: answers with the names, types and values of what it was given."""

from typing import Any


class Inputs:
    def initialize(self, context: Any) -> None:
        self.model_dir = context.system_properties["model_dir"]

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        return [{name: described(value) for name, value in row.items()} for row in data]


def described(value: Any) -> list[Any]:
    if isinstance(value, bytes | bytearray):
        return [type(value).__name__, value.decode("latin-1")]
    return [type(value).__name__, value]
