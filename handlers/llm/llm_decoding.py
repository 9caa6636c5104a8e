"""The model's side of generation: what its next tokens are likely to be, for many texts at once.

A decoder holds the keys and values of each text that it has read, so that a step costs one token a text.
``JoinedDecoder`` keeps them all in one batch; ``SeparateDecoder`` goes text by text, for models whose caches cannot
stand in a batch with others that are shorter or longer. ``decoder_for`` finds out by trying.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

# Rotary embeddings whose angles depend on the longest text of the batch: a short one would change with its neighbours.
_ROTARY_BY_LENGTH = frozenset({"dynamic", "longrope", "su"})

# How far a decoder's logits may be from those of the whole text read at once, as a share of their length.
_ROUNDING = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


class Decoder(Protocol):
    """Row ``i`` of what it returns is about the ``i``-th text that was added and not yet left out."""

    def add(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Reads further texts; the logits of what follows each of them. When it raises, nothing has been added."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads one more token of each text; the logits of what follows. When it raises, only ``keep([])`` helps."""

    def keep(self, rows: Sequence[int]) -> None:
        """Forgets all other texts."""


class CausalNetwork:
    """A causal model of transformers behind one way of calling it: the names of its arguments vary with the library's
    version and from model to model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = text_config(model.config)
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        accepted = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in ("cache", "past_key_values", "cache_params") if name in accepted), "")
        if not self._cache_name:
            raise ValueError(f"{type(model).__name__} takes no cache of keys and values, so it cannot generate here.")
        self._takes_positions = "position_ids" in accepted
        keeps = (name for name in ("logits_to_keep", "num_logits_to_keep") if name in accepted)
        self._only_last = dict.fromkeys(keeps, 1)  # else a long prompt's logits take gigabytes

    def run(self, ids: Tensor, mask: Tensor, cache: Any, *, use_cache: bool = True) -> tuple[Tensor, Any]:
        """The logits after the last token of each row, and the cache that now holds ``ids`` as well.

        ``mask`` covers the cache and ``ids``; its zeros are on the left. A cache of None is the model's own kind.
        """
        arguments: dict[str, Any] = {"attention_mask": mask, self._cache_name: cache, "use_cache": use_cache}
        if self._takes_positions:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model(input_ids=ids, return_dict=True, **arguments, **self._only_last)
        return output.logits[:, -1].float(), getattr(output, self._cache_name, None)

    def tensor(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self.device)


class JoinedDecoder:
    """All texts in one batch, each padded on the left to the longest: a step is one call of the model.

    Layers keep all of their keys, those with a sliding window too: the model masks by distance, which padding on the
    left does not change.
    """

    def __init__(self, network: CausalNetwork) -> None:
        self._network = network
        self._layers: Any = None  # a DynamicCache
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=network.device)

    def add(self, texts: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, texts))
        ids = self._network.tensor([[0] * (width - len(text)) + list(text) for text in texts])
        mask = self._network.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        logits, cache = self._network.run(ids, mask, _new_cache())
        new = _keys_and_values(cache)
        if len(self._mask):
            width = max(width, self._mask.shape[1])
            old = _keys_and_values(self._layers)
            new = [
                (_stacked(before[0], after[0], width), _stacked(before[1], after[1], width))
                for before, after in zip(old, new, strict=True)
            ]
            mask = torch.cat([functional.pad(one, (width - one.shape[1], 0)) for one in (self._mask, mask)])
        self._layers, self._mask = _new_cache(new), mask
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        mask = functional.pad(self._mask, (0, 1), value=1)
        logits, self._layers = self._network.run(
            self._network.tensor([[token] for token in tokens]), mask, self._layers
        )
        self._mask = mask
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        if not rows:
            self._layers, self._mask = None, self._mask[:0, :0]
            return
        index = torch.tensor(rows, device=self._mask.device)
        mask = self._mask.index_select(0, index)
        first = int(mask.any(0).int().argmax())  # columns before it are padding in each row that stays
        kept = [
            (keys.index_select(0, index)[..., first:, :], values.index_select(0, index)[..., first:, :])
            for keys, values in _keys_and_values(self._layers)
        ]
        self._layers, self._mask = _new_cache(kept), mask[:, first:]


class SeparateDecoder:
    """A cache of the model's own kind for each text, and a call of the model for each step of each."""

    def __init__(self, network: CausalNetwork) -> None:
        self._network = network
        self._texts: list[tuple[Any, int]] = []  # the cache, and how many tokens it holds

    def add(self, texts: Sequence[Sequence[int]]) -> Tensor:
        read = [self._read(list(text), None, 0) for text in texts]
        self._texts += [(cache, len(text)) for (_, cache), text in zip(read, texts, strict=True)]
        return torch.cat([logits for logits, _ in read])

    def step(self, tokens: Sequence[int]) -> Tensor:
        read = [self._read([token], *text) for token, text in zip(tokens, self._texts, strict=True)]
        self._texts = [(cache, length + 1) for (_, cache), (_, length) in zip(read, self._texts, strict=True)]
        return torch.cat([logits for logits, _ in read])

    def keep(self, rows: Sequence[int]) -> None:
        self._texts = [self._texts[row] for row in rows]

    def _read(self, tokens: list[int], cache: Any, length: int) -> tuple[Tensor, Any]:
        mask = torch.ones((1, length + len(tokens)), dtype=torch.long, device=self._network.device)
        return self._network.run(self._network.tensor([tokens]), mask, cache)


def decoder_for(network: CausalNetwork) -> Decoder:
    """The quickest decoder that gives what the model gives for whole texts. ValueError when none does."""
    hindrance = _hindrance(network.config) or _deviation(JoinedDecoder, network)
    if hindrance is None:
        return JoinedDecoder(network)
    logger.warning(
        "Texts are generated one at a time, which is correct but slow: %s cannot read texts of different lengths as "
        "one batch (%s).",
        type(network.model).__name__,
        hindrance,
    )
    hindrance = _deviation(SeparateDecoder, network)
    if hindrance is not None:
        raise ValueError(f"{type(network.model).__name__} cannot generate token by token here: {hindrance}.")
    return SeparateDecoder(network)


def _hindrance(config: Any) -> str | None:
    """What only long texts would show, and a trial does not."""
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {
        rotary.get("rope_type", rotary.get("type")),
        *(part.get("rope_type") for part in rotary.values() if isinstance(part, dict)),
    }
    if kinds & _ROTARY_BY_LENGTH:
        return "its rotary embeddings depend on the longest text of a batch"
    if getattr(config, "attention_chunk_size", None):
        return "it attends in chunks, which padding would shift"
    return None


def _deviation(kind: Callable[[CausalNetwork], Decoder], network: CausalNetwork) -> str | None:
    """What is wrong with the decoder for this model; None when nothing is.

    Texts of different lengths join and leave, and at each step it must give the logits of the whole text read at once.
    """
    vocabulary = network.config.vocab_size
    long, short = ([number * 7919 % vocabulary for number in numbers] for numbers in (range(1, 10), range(20, 24)))
    decoder = kind(network)
    try:
        followed = [
            (decoder.add([long[:7]]), [long[:7]]),
            (decoder.add([short[:3]]), [short[:3]]),
            (decoder.step([long[7], short[3]]), [long[:8], short]),
        ]
        decoder.keep([1])
        followed.append((decoder.step([long[0]]), [[*short, long[0]]]))
    except Exception as error:  # whatever a model does not take
        return f"{type(error).__name__}: {error}"
    allowed = _ROUNDING.get(network.dtype, 0.1)
    for logits, texts in followed:
        for row, text in zip(logits, texts, strict=True):
            ids = network.tensor([text])
            expected = network.run(ids, torch.ones_like(ids), None, use_cache=False)[0][0]
            if not (row - expected).norm() <= allowed * expected.norm():
                return "its logits differ from those of the whole text"
    return None


def text_config(config: Any) -> Any:
    """Of a model that reads more than text, the part that is about text."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _new_cache(layers: Sequence[tuple[Tensor, Tensor]] = ()) -> Any:
    from transformers import DynamicCache  # takes seconds; a worker needs it, a reader of this module does not

    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def _keys_and_values(cache: Any) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, ``[texts, heads, tokens, size]``; ValueError when the model keeps something else."""
    from transformers import cache_utils

    plain = getattr(cache_utils, "DynamicLayer", None)  # older versions have no layers, and keep nothing else
    if any(type(layer) is not plain for layer in getattr(cache, "layers", ())):
        raise ValueError("its cache holds more than keys and values")
    layers = [(layer[0], layer[1]) for layer in cache]
    if not all(isinstance(part, Tensor) and part.dim() == 4 for layer in layers for part in layer):
        raise ValueError("its cache lacks the keys and values of a layer")
    return layers


def _stacked(above: Tensor, below: Tensor, width: int) -> Tensor:
    return torch.cat([_widened(above, width), _widened(below, width)])


def _widened(states: Tensor, width: int) -> Tensor:
    """With zeros on the left of the tokens, the last dimension but one."""
    return functional.pad(states, (0, 0, width - states.shape[-2], 0))
