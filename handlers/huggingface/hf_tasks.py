"""What each mode makes of a model's output: an answer for each example, and the score that an explanation explains."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hf_batches import Batch, Encoding
from hf_inputs import TOKEN_FIELDS
from torch import Tensor

LONGEST_ANSWER = 30  # tokens


@dataclass(frozen=True)
class Task(abc.ABC):
    """One mode. For explanations, ``scores`` says what is scored, ``predicted`` which target is the model's own."""

    tokenizer: Any
    labels: Mapping[int, str]

    auto_model = ""  # class of transformers that loads the model

    @property
    def fields(self) -> tuple[str, ...]:
        """The tensors to give the model, as far as it takes them."""
        known = ("input_ids", "attention_mask", *self.tokenizer.model_input_names)
        return tuple(name for name in TOKEN_FIELDS if name in known)

    def checked(self, encoding: Encoding) -> Encoding:
        """The same encoding; ValueError, in the client's words, when the mode cannot do with it."""
        return encoding

    def answers(self, outputs: Sequence[Tensor] | Sequence[Sequence[Tensor]], batch: Batch) -> list[Any]:
        """One answer for each example."""
        return [
            self.answer(encoding, *(output[row] for output in outputs)) for row, encoding in enumerate(batch.encodings)
        ]

    @abc.abstractmethod
    def answer(self, encoding: Encoding, *outputs: Tensor) -> Any:
        """The answer to one example, from its rows of the outputs."""

    @abc.abstractmethod
    def predicted(self, outputs: Sequence[Tensor], encoding: Encoding) -> Any:
        """What to explain when the client named no target."""

    @abc.abstractmethod
    def scores(self, outputs: Sequence[Tensor], target: Any) -> Tensor:
        """How strongly each row of the outputs speaks for ``target``."""


class SequenceClassification(Task):
    """The label of a text."""

    auto_model = "AutoModelForSequenceClassification"

    def answer(self, encoding: Encoding, *outputs: Tensor) -> str:
        return self.labels[int(outputs[0].argmax())]

    def predicted(self, outputs: Sequence[Tensor], encoding: Encoding) -> int:
        return int(outputs[0][0].argmax())

    def scores(self, outputs: Sequence[Tensor], target: int) -> Tensor:
        return outputs[0].softmax(-1)[:, target]


class TokenClassification(Task):
    """``[token, label]`` for each token of the text."""

    auto_model = "AutoModelForTokenClassification"

    def answer(self, encoding: Encoding, *outputs: Tensor) -> list[list[str]]:
        tokens = self.tokenizer.convert_ids_to_tokens(list(encoding.ids))
        found = zip(tokens, outputs[0].argmax(-1).tolist(), encoding.special, strict=False)  # the rest is padding
        return [[token, self.labels[label]] for token, label, special in found if not special]

    def predicted(self, outputs: Sequence[Tensor], encoding: Encoding) -> int:
        return int(outputs[0][0].mean(0).argmax())

    def scores(self, outputs: Sequence[Tensor], target: int) -> Tensor:
        return outputs[0].softmax(-1)[:, :, target].mean(1)


class QuestionAnswering(Task):
    """The piece of the context that answers the question."""

    auto_model = "AutoModelForQuestionAnswering"

    def checked(self, encoding: Encoding) -> Encoding:
        if all(_outside_context(encoding)):
            raise ValueError('Question answering needs a "question" and a "context" that is not empty.')
        return encoding

    def answer(self, encoding: Encoding, *outputs: Tensor) -> str:
        first, last = best_span(outputs[0], outputs[1], encoding)
        context = encoding.example.context
        start, end = (encoding.spans[first], encoding.spans[last]) if encoding.spans else (None, None)
        if context is None or start is None or end is None:  # the client sent token ids: there is no text to quote
            return self.tokenizer.decode(encoding.ids[first : last + 1])
        return context[start[0] : end[1]]

    def predicted(self, outputs: Sequence[Tensor], encoding: Encoding) -> tuple[int, int]:
        return best_span(outputs[0][0], outputs[1][0], encoding)

    def scores(self, outputs: Sequence[Tensor], target: tuple[int, int]) -> Tensor:
        first, last = target
        return outputs[0][:, first] + outputs[1][:, last]


class TextGeneration(Task):
    """The text with its continuation; for an explanation, the next token alone."""

    auto_model = "AutoModelForCausalLM"
    fields = ("input_ids", "attention_mask")

    def answer(self, encoding: Encoding, *outputs: Tensor) -> str:
        return self.tokenizer.decode(outputs[0].tolist(), skip_special_tokens=True)

    def predicted(self, outputs: Sequence[Tensor], encoding: Encoding) -> int:
        return int(outputs[0][0, -1].argmax())

    def scores(self, outputs: Sequence[Tensor], target: int) -> Tensor:
        return outputs[0].softmax(-1)[:, -1, target]


TASKS: Mapping[str, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "text_generation": TextGeneration,
}


def best_span(starts: Tensor, ends: Tensor, encoding: Encoding) -> tuple[int, int]:
    """First and last token of the best answer, which lies in the context and is not too long."""
    length = len(encoding.ids)
    outside = torch.tensor(_outside_context(encoding), device=starts.device)
    scores = starts[:length, None] + ends[None, :length]
    possible = torch.ones_like(scores, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    possible &= ~(outside[:, None] | outside[None, :])
    best = int(scores.masked_fill(~possible, -torch.inf).argmax())
    return divmod(best, length)


def _outside_context(encoding: Encoding) -> list[bool]:
    """For text, what is not of the context; a client's own token ids show their context by the second token type."""
    if encoding.example.token_ids is None:
        return [span is None for span in encoding.spans or [None]]
    types = encoding.fields.get("token_type_ids", ())
    second = [kind == 1 for kind in types] if any(types) else [True] * len(encoding.ids)
    return [bool(special) or not inside for special, inside in zip(encoding.special, second, strict=True)]


def labels_of(mapping: Mapping[str, str] | None, config: Any) -> Mapping[int, str]:
    """Labels by class index: of index_to_name.json, in either of its two forms, else of the model's own config."""
    if not mapping:
        return {int(index): label for index, label in (getattr(config, "id2label", None) or {}).items()}
    if "label_list" in mapping:
        return dict(enumerate(label.strip() for label in mapping["label_list"].strip("[]").split(",")))
    return {int(index): label for index, label in mapping.items()}
