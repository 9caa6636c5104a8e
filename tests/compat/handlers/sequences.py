"""Sequence batching: adds up the numbers of each sequence."""

from typing import Any


class Sequences:
    def initialize(self, context: Any) -> None:
        self.sums: dict[str, int] = {}

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        return [self.add(context, index, int(row["body"])) for index, row in enumerate(data)]

    def add(self, context: Any, index: int, number: int) -> str:
        sequence = context.get_sequence_id(index)
        if context.get_request_header(index, context.header_key_sequence_start) == "true":
            self.sums[sequence] = 0
        self.sums[sequence] = self.sums.get(sequence, 0) + number
        context.set_response_header(index, context.header_key_sequence_id, sequence)
        return str(self.sums[sequence])
