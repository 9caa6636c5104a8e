"""Which token comes next, given how likely the model holds each: the parameters that a client may set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParameters:
    """OpenAI's names and ranges. A temperature of 0 always takes the likeliest token."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """Chooses the tokens of one text. With a seed it chooses the same ones whatever it is batched with."""

    def __init__(self, parameters: SamplingParameters, device: torch.device, number: int = 0) -> None:
        self._parameters = parameters
        self._processors = _processors(parameters)
        self._generator: torch.Generator | None = None  # torch's own, which is seeded anew in each process
        if parameters.seed is not None:
            self._generator = torch.Generator(device).manual_seed((parameters.seed + number) % 2**63)

    @property
    def takes_likeliest(self) -> bool:
        """The likeliest token of the model is its choice, so that one ``argmax`` serves a whole batch."""
        return self._parameters.temperature == 0 and not self._processors and not self._penalizes

    def choose(self, logits: Tensor, chosen: Sequence[int]) -> int:
        """``logits`` are one row, ``chosen`` the tokens of the text so far, without its prompt."""
        scores = logits[None]
        if self._penalizes and chosen:
            scores = scores - self._penalties(scores, chosen)
        if self._processors:
            scores = self._processors(torch.empty((1, 0), dtype=torch.long, device=scores.device), scores)
        if self._parameters.temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))

    @property
    def _penalizes(self) -> bool:
        return bool(self._parameters.frequency_penalty or self._parameters.presence_penalty)

    def _penalties(self, scores: Tensor, chosen: Sequence[int]) -> Tensor:
        """transformers has penalties of another formula only (``repetition_penalty``)."""
        counts = torch.bincount(torch.tensor(chosen, device=scores.device), minlength=scores.shape[-1])
        frequency, presence = self._parameters.frequency_penalty, self._parameters.presence_penalty
        return counts * frequency + (counts > 0) * presence


def _processors(parameters: SamplingParameters) -> Any:
    import transformers  # takes seconds; a worker needs it, a reader of this module does not

    processors: Any = transformers.LogitsProcessorList()
    if parameters.logit_bias:
        bias: Any = [[[token], float(value)] for token, value in parameters.logit_bias.items()]
        processors.append(transformers.SequenceBiasLogitsProcessor(bias))
    if parameters.temperature == 0:
        return processors
    if parameters.temperature != 1:
        processors.append(transformers.TemperatureLogitsWarper(parameters.temperature))
    if parameters.top_k:
        processors.append(transformers.TopKLogitsWarper(parameters.top_k))
    if parameters.top_p < 1:
        processors.append(transformers.TopPLogitsWarper(parameters.top_p))
    return processors
