"""Keeps something of each sequence, and answers in two pieces: continuous batching of sequences. ``end`` ends the
sequence by the response header, as TorchServe's handlers of this kind do."""

from __future__ import annotations

from typing import Any

heard: dict[str, list[str]] = {}


def handle(data: list[Any] | None, context: Any) -> list[str] | None:
    if data is None:
        return None
    results, criteria = [], []
    for index, row in enumerate(data):
        sequence = context.get_sequence_id(index)
        if row:
            word = bytes(row["body"]).decode()
            heard.setdefault(sequence, []).append(word)
            if word == "end":
                context.set_response_header(index, context.header_key_sequence_end, sequence)
            results.append(f"{len(data)}:")
        else:
            results.append(",".join(heard[sequence]))
        criteria.append(lambda result, is_last=not row: is_last)
    context.stopping_criteria = criteria
    return results
