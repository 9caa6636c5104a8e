"""The news classifier's network; the archive names this file as its model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

WIDTH = 16


class TextClassificationModel(nn.Module):
    """The mean of a text's word and word-pair vectors, then one linear layer: ids in, a logit per class out.

    The sizes of the vocabulary and of the label set are those of the weights that are loaded, so this file serves every
    training run.
    """

    def __init__(self, vocabulary_size: int = 1, classes: int = 1) -> None:
        super().__init__()
        self._build(vocabulary_size, classes)

    def _build(self, vocabulary_size: int, classes: int) -> None:
        self.embedding = nn.EmbeddingBag(vocabulary_size, WIDTH, mode="mean")
        self.fc = nn.Linear(WIDTH, classes)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._build(len(state_dict["embedding.weight"]), len(state_dict["fc.bias"]))
        return super().load_state_dict(state_dict, *args, **kwargs)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Logits [texts, classes]; ``ids`` holds all texts one after the other, ``offsets`` where each begins."""
        return self.fc(self.embedding(ids, offsets))
