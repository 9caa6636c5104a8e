"""Default handler `text_classifier`: a text in, all classes with their probabilities out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from ts.handler_utils.text_utils import ngrams_iterator
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import mark_stage
from ts.torch_handler.explanations import attribution
from ts.torch_handler.text_handler import TextHandler
from ts.torch_handler.text_rows import NGram, known_ngrams, text_of
from ts.torch_handler.word_importances import word_importances
from ts.utils.util import map_class_to_label

Encoded = tuple[torch.Tensor, list[str]]
"""The ids of a text's n-grams, and its tokens."""


def __getattr__(name: str) -> Any:
    if name != "TokenReferenceBase":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from captum.attr import TokenReferenceBase

    return TokenReferenceBase


class TextClassifier(TextHandler):
    """For models called as ``model(ids, offsets)``, as one with an EmbeddingBag is."""

    ngrams = 2

    @timed
    def preprocess(self, data: list[Any]) -> list[Encoded]:
        return [self._encoded(request, row) for row, request in enumerate(data)]

    def _encoded(self, request: Any, row: int) -> Encoded:
        mark_stage(self.context, "preprocess", row)
        tokens = self._tokenize(self._cleaned(text_of(request, row)))
        ids = [ngram.id for ngram in self._known_ngrams(tokens)]
        return torch.tensor(ids, dtype=torch.int64, device=self.device), tokens

    def _cleaned(self, text: str) -> str:
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        return self._remove_punctuation(self._remove_accented_characters(text))

    def _known_ngrams(self, tokens: list[str]) -> list[NGram]:
        return known_ngrams(tokens, self.source_vocab, self.ngrams)

    @timed
    def inference(self, data: list[Encoded], *args: Any, **kwargs: Any) -> torch.Tensor:
        """All texts in one call: their ids one after the other, and where each begins."""
        lengths = torch.tensor([0, *(len(ids) for ids, _ in data)], device=self.device)
        with torch.inference_mode():
            return self.model(torch.cat([ids for ids, _ in data]), lengths.cumsum(0)[:-1], *args, **kwargs)

    @timed
    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        return map_class_to_label(F.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: list[Encoded], _: Any, target: Any = 0) -> list[dict[str, Any]]:
        """``importances``: of the embedding's dimensions, as in TorchServe; ``word_importances``: of each word."""
        ids, tokens = text_preprocess[0]
        offsets = torch.zeros(1, dtype=torch.int64, device=self.device)
        options = {"baselines": torch.zeros_like(ids), "additional_forward_args": (offsets,)}
        importances = self.summarize_attributions(attribution(self.lig, ids, target, **options))
        explanation = {"importances": importances.tolist(), "words": self.get_word_token(tokens)}
        by_word = word_importances(self.model, self._known_ngrams(tokens), len(tokens), ids, offsets, target)
        return [explanation if by_word is None else {**explanation, "word_importances": by_word}]


__all__ = ["F", "TextClassifier", "TextHandler", "map_class_to_label", "ngrams_iterator"]
