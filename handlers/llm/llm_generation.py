"""Continuous batching: texts join and leave between the steps of a batch, and each step gives every text one token."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from llm_decoding import CausalNetwork, Decoder
from llm_sampling import Sampler, SamplingParameters
from llm_text import Detokenizer, StopStrings
from torch import Tensor

logger = logging.getLogger(__name__)

# Tokens, with padding, of the prompts that are read in one step: the texts that are under way wait for them.
_PROMPT_TOKENS_PER_STEP = 4096


@dataclass(frozen=True)
class TextRequest:
    """One text to generate, of ``limit`` tokens at most. ``number`` tells the choices of a prompt apart."""

    prompt: Sequence[int]
    limit: int
    sampling: SamplingParameters
    stop: Sequence[str] = ()
    number: int = 0


class Text:
    """A text that is being generated. It has ended when it has a ``finish_reason`` or an ``error``."""

    def __init__(self, request: TextRequest, tokenizer: Any, device: torch.device, end_tokens: frozenset[int]) -> None:
        self.prompt = request.prompt
        self.tokens: list[int] = []
        self.sampler = Sampler(request.sampling, device, request.number)
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self._limit = request.limit
        self._end_tokens = end_tokens
        self._detokenizer = Detokenizer(tokenizer, request.prompt)
        self._stop = StopStrings(request.stop)
        self._fresh = ""

    @property
    def ended(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def push(self, token: int) -> None:
        self.tokens.append(token)
        if token in self._end_tokens:
            self._finish("stop")
            return
        self._say(self._detokenizer.push(token))
        if self.finish_reason is None and len(self.tokens) >= self._limit:
            self._finish("length")

    def take(self) -> str:
        """What has been said since it was last asked."""
        fresh, self._fresh = self._fresh, ""
        return fresh

    def _say(self, piece: str) -> None:
        said, stopped = self._stop.push(piece)
        self._fresh += said
        if stopped:
            self.finish_reason = "stop"

    def _finish(self, reason: str) -> None:
        self._say(self._detokenizer.rest())  # which may complete a stop string
        if self.finish_reason is None:
            self._fresh += self._stop.rest()
            self.finish_reason = reason


class Generation:
    """Gives every text its next token in each ``step``. ``most`` texts are under way at once, others wait their turn.

    A text that fails has its ``error``; the others go on.
    """

    def __init__(
        self, network: CausalNetwork, decoder: Decoder, tokenizer: Any, ends: frozenset[int], most: int
    ) -> None:
        self._network = network
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._end_tokens = ends
        self._most = most
        self._waiting: deque[Text] = deque()
        self._live: list[Text] = []  # in the order of the decoder's rows

    def add(self, requests: Sequence[TextRequest]) -> list[Text]:
        device = self._network.device
        texts = [Text(request, self._tokenizer, device, self._end_tokens) for request in requests]
        self._waiting += texts  # all or, where one cannot be made, none
        return texts

    def drop(self, texts: Sequence[Text]) -> None:
        """Nobody waits for them any more."""
        gone = {id(text) for text in texts}
        self._waiting = deque(text for text in self._waiting if id(text) not in gone)
        self._keep([text for text in self._live if id(text) not in gone])

    @torch.inference_mode()
    def step(self) -> None:
        if self._live:
            self._go_on()
        self._push(self._read(self._newcomers()))
        self._keep([text for text in self._live if not text.ended])

    def _go_on(self) -> None:
        live = self._live
        try:
            logits = self._decoder.step([text.tokens[-1] for text in live])
        except Exception:
            # Memory, most likely. Each text is read anew, one after the other: as many as there is room for go on.
            logger.exception("A step of %s texts has failed; each is read again.", len(live))
            self._decoder.keep([])
            self._live = []
            followed = [pair for text in live for pair in self._read([text])]
        else:
            followed = list(zip(live, logits, strict=True))
        self._push(followed)
        self._keep([text for text in self._live if not text.ended])

    def _newcomers(self) -> list[Text]:
        """Those at the front of the line that can be read together."""
        chosen: list[Text] = []
        width = 0
        while self._waiting and len(self._live) + len(chosen) < self._most:
            width = max(width, len(self._waiting[0].prompt))
            if chosen and width * (len(chosen) + 1) > _PROMPT_TOKENS_PER_STEP:
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _read(self, texts: list[Text]) -> list[tuple[Text, Tensor]]:
        """Makes the texts live; each with the logits of what follows it. Those that cannot be read have an error."""
        if not texts:
            return []
        try:
            logits = self._decoder.add([[*text.prompt, *text.tokens] for text in texts])
        except Exception as error:
            if len(texts) > 1:
                return [pair for text in texts for pair in self._read([text])]
            logger.exception("A text of %s tokens could not be read.", len(texts[0].prompt) + len(texts[0].tokens))
            texts[0].error = error
            return []
        self._live += texts
        return list(zip(texts, logits, strict=True))

    def _push(self, followed: Sequence[tuple[Text, Tensor]]) -> None:
        if not followed:
            return
        logits = torch.stack([row for _, row in followed])
        likeliest, broken = logits.argmax(-1).tolist(), logits.isnan().any(-1).tolist()
        for (text, row), token, is_broken in zip(followed, likeliest, broken, strict=True):
            try:
                if is_broken:
                    raise ArithmeticError("The model's output is not a number.")
                text.push(token if text.sampler.takes_likeliest else text.sampler.choose(row, text.tokens))
            except Exception as error:
                logger.exception("A text of %s tokens could not go on.", len(text.prompt) + len(text.tokens))
                text.error = error

    def _keep(self, texts: list[Text]) -> None:
        if len(texts) < len(self._live):
            rows = {id(text): row for row, text in enumerate(self._live)}
            self._decoder.keep([rows[id(text)] for text in texts])
            self._live = texts
