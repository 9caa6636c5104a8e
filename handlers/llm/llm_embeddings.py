"""Serves an encoder: one vector for each text, all texts of the requests that wait together in common batches."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from llm_answers import Reply, failure, usage
from llm_decoding import text_config
from llm_models import load_model, load_tokenizer, max_length, pooling_of
from llm_requests import EmbeddingRequest, Prompt, RequestRefused, read_embedding_request, whole_characters
from llm_settings import Settings, model_source
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

# Tokens, with padding, that go through the model together.
_TOKENS_PER_BATCH = 8192


class EmbeddingService:
    """Answers ``v1/embeddings``."""

    ROUTES = ("v1/embeddings",)

    def __init__(self, model_dir: Path, settings: Settings, device: torch.device, batch_size: int, name: str) -> None:
        source = model_source(model_dir, settings)
        self._name = name
        self._device = device
        self._tokenizer = load_tokenizer(source, settings)
        self._model = load_model(source, settings, device, generates=False)
        # RoBERTa's positions begin at 2, so its tokenizer knows better how long a text may be.
        self.max_model_len = min(max_length(self._model.config, settings), self._tokenizer.model_max_length)
        self._vocabulary = text_config(self._model.config).vocab_size
        self._pooling = settings.pooling or pooling_of(source)
        self._normalize = settings.normalize
        self._waiting: dict[str, tuple[EmbeddingRequest, list[Sequence[int]]]] = {}
        logger.info(
            "%s is served as %s: vectors of texts of up to %s tokens (%s pooling), on %s.",
            type(self._model).__name__,
            name,
            self.max_model_len,
            self._pooling,
            device,
        )

    def begin(self, request_id: str, route: str, body: Mapping[str, Any]) -> None:
        request = read_embedding_request(body)
        self._waiting[request_id] = request, [self._tokens(one) for one in request.inputs]

    def replies(self) -> dict[str, Reply]:
        """The answers to all requests that have begun. Where the model fails, each is tried alone."""
        waiting, self._waiting = self._waiting, {}
        try:
            vectors = iter(self._vectors([text for _, texts in waiting.values() for text in texts]))
            return {
                request_id: self._answer(request, texts, [next(vectors) for _ in texts])
                for request_id, (request, texts) in waiting.items()
            }
        except Exception:
            logger.exception("The vectors of %s requests could not be computed.", len(waiting))
            if len(waiting) == 1:
                return dict.fromkeys(waiting, failure("The model failed on this request; its log says why."))
        replies: dict[str, Reply] = {}
        for request_id, one in waiting.items():
            self._waiting = {request_id: one}
            replies.update(self.replies())
        return replies

    def drop(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)

    def _tokens(self, text: Prompt) -> Sequence[int]:
        tokens: Sequence[int] = (
            self._tokenizer(whole_characters(text, "input"))["input_ids"] if isinstance(text, str) else text
        )
        if not tokens:
            raise RequestRefused("input has a text without tokens.", "input")
        if len(tokens) > self.max_model_len:
            raise RequestRefused(
                f"This model's maximum context length is {self.max_model_len} tokens; a text of the input has "
                f"{len(tokens)}.",
                "input",
                code="context_length_exceeded",
            )
        wrong = [token for token in tokens if not 0 <= token < self._vocabulary]
        if wrong:
            raise RequestRefused(f"input has token {wrong[0]}; the model has {self._vocabulary}.", "input")
        return tokens

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """In the order of the texts; computed by length, so that little is padding."""
        vectors: dict[int, Tensor] = {}
        waiting = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        while waiting:
            count = max(1, _TOKENS_PER_BATCH // len(texts[waiting[-1]]))
            chosen, waiting = waiting[-count:], waiting[:-count]
            vectors.update(zip(chosen, self._batch([texts[index] for index in chosen]), strict=True))
        return [vectors[index] for index in range(len(texts))]

    def _batch(self, texts: Sequence[Sequence[int]]) -> Tensor:
        width, filler = max(map(len, texts)), self._tokenizer.pad_token_id or 0
        ids = [[*text, *[filler] * (width - len(text))] for text in texts]
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=self._device)
        states = self._model(input_ids=torch.tensor(ids, device=self._device), attention_mask=mask)[0].float()
        if self._pooling == "cls":
            vectors = states[:, 0]
        else:
            vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return (functional.normalize(vectors, dim=-1) if self._normalize else vectors).cpu()

    def _answer(self, request: EmbeddingRequest, texts: Sequence[Sequence[int]], vectors: Sequence[Tensor]) -> Reply:
        embeddings = [_as_base64(vector) if request.as_base64 else vector.tolist() for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(embeddings)]
        return Reply({"object": "list", "data": data, "model": self._name, "usage": _usage(sum(map(len, texts)))})


def _usage(tokens: int) -> dict[str, int]:
    return {name: count for name, count in usage(tokens, 0).items() if name != "completion_tokens"}


def _as_base64(vector: Tensor) -> str:
    """Its numbers as float32, little-endian, which OpenAI's Python client asks for."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
