"""Examples as one batch of padded tensors, so that a model reads them together and none sees the others' padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hf_inputs import TOKEN_FIELDS, Example
from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """One example as tokens. ``spans`` are the places in the context that they came from; empty for other tokens."""

    example: Example
    fields: Mapping[str, Sequence[int]]
    special: Sequence[int]  # 1 where the token is no part of the text ([CLS], [SEP], ...)
    spans: Sequence[tuple[int, int] | None] = ()

    @property
    def ids(self) -> Sequence[int]:
        return self.fields["input_ids"]

    def field(self, name: str) -> Sequence[int]:
        """Zeros for token types that nobody gave: all tokens are of the first."""
        return self.fields.get(name) or [0] * len(self.ids)


@dataclass(frozen=True)
class EncodedRow:
    """The encodings that one answer is due for, a list of answers when there are ``many``."""

    encodings: Sequence[Encoding]
    many: bool


@dataclass(frozen=True)
class Batch:
    """Encodings and their tensors, padded to one length."""

    encodings: Sequence[Encoding]
    inputs: Mapping[str, Tensor]


class Batcher:
    """Makes batches of the tensors ``fields`` with one tokenizer.

    ``width`` is a fixed length in tokens, for models traced with one; ``left`` puts the padding before the text.
    """

    def __init__(
        self, tokenizer: Any, fields: Sequence[str], *, max_length: int, width: int = 0, left: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._fields = fields
        self._max_length = max_length
        self._width = width
        self._left = left

    def batch(self, encodings: Sequence[Encoding], device: torch.device) -> Batch:
        inputs = {name: self._padded([encoding.field(name) for encoding in encodings], name) for name in self._fields}
        return Batch(encodings, {name: tensor.to(device) for name, tensor in inputs.items()})

    def encode(self, example: Example) -> Encoding:
        """The example as tokens; ValueError when the client's own tokens are none of this model."""
        return self._tokenized(example) if example.token_ids is None else self._as_sent(example, example.token_ids)

    def _as_sent(self, example: Example, token_ids: Mapping[str, Sequence[int]]) -> Encoding:
        fields = {name: values[: self._max_length] for name, values in token_ids.items()}
        ids = fields["input_ids"]
        vocabulary = len(self._tokenizer)
        if not ids or not 0 <= min(ids) <= max(ids) < vocabulary:
            raise ValueError(f"input_ids must be numbers from 0 to {vocabulary - 1}, one at least that is attended to.")
        special = self._tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        return Encoding(example, fields, special)

    def _tokenized(self, example: Example) -> Encoding:
        pair = example.context is not None
        tokens = self._tokenizer(
            example.text,
            example.context,
            truncation=True,
            max_length=self._max_length,
            return_special_tokens_mask=True,
            return_offsets_mapping=pair,
        )
        fields = {name: tokens[name] for name in TOKEN_FIELDS if name in tokens}
        if not fields["input_ids"]:  # a tokenizer that adds no special tokens makes nothing of an empty text
            raise ValueError("The text is empty.")
        return Encoding(example, fields, tokens["special_tokens_mask"], _context_spans(tokens) if pair else ())

    def _padded(self, rows: list[Sequence[int]], name: str) -> Tensor:
        filler = self.pad_id if name == "input_ids" else 0
        width = max(self._width, *map(len, rows))
        gaps = [[filler] * (width - len(row)) for row in rows]
        pairs = zip(rows, gaps, strict=True)
        return torch.tensor([[*gap, *row] if self._left else [*row, *gap] for row, gap in pairs])

    @property
    def pad_id(self) -> int:
        """Generators often have no padding token; what stands where nobody looks is then of no matter."""
        known = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)


def _context_spans(tokens: Any) -> list[tuple[int, int] | None]:
    in_context = [part == 1 for part in tokens.sequence_ids(0)]
    return [span if inside else None for span, inside in zip(tokens["offset_mapping"], in_context, strict=True)]
