"""How much each word moved a text classifier's answer, where its embedding layer adds or averages n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ts.torch_handler.explanations import attribution
from ts.torch_handler.text_rows import NGram


def word_importances(
    model: Any, ngrams: Sequence[NGram], words: int, ids: torch.Tensor, offsets: torch.Tensor, target: Any
) -> list[float] | None:
    """One figure per word, None where the model's embedding is of another kind.

    captum's attributions are to the dimensions of the pooled vector. That vector is linear in the n-grams' own, so each
    dimension's attribution divides exactly among the n-grams, and an n-gram's share equally among its words.
    """
    layer = getattr(model, "embedding", None)
    if not isinstance(layer, torch.nn.EmbeddingBag) or layer.mode not in ("sum", "mean"):
        return None
    if not ngrams:
        return [0.0] * words
    from captum.attr import LayerIntegratedGradients

    algorithm = LayerIntegratedGradients(model, layer, multiply_by_inputs=False)
    options = {"baselines": torch.zeros_like(ids), "additional_forward_args": (offsets,)}
    mean_gradient: torch.Tensor = attribution(algorithm, ids, target, **options).squeeze(0)
    shares = (layer.weight[ids] - layer.weight[0]) @ mean_gradient
    if layer.mode == "mean":
        shares = shares / len(ngrams)
    importances = [0.0] * words
    for share, ngram in zip(shares.tolist(), ngrams, strict=True):
        members = range(words)[ngram.words]
        for word in members:
            importances[word] += share / len(members)
    return importances
