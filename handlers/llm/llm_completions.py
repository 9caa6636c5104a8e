"""Serves a causal model: from OpenAI's requests to prompts, through continuous batching, to OpenAI's answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from llm_answers import GenerationAnswer, Reply
from llm_decoding import CausalNetwork, decoder_for
from llm_generation import Generation, TextRequest
from llm_models import end_tokens, load_model, load_tokenizer, max_length, sampling_defaults
from llm_requests import (
    GenerationRequest,
    Prompt,
    RequestRefused,
    read_chat_request,
    read_completion_request,
    whole_characters,
)
from llm_settings import Settings, model_source, read_chat_template

logger = logging.getLogger(__name__)


class CompletionService:
    """Answers ``v1/chat/completions`` and ``v1/completions``."""

    ROUTES = ("v1/chat/completions", "v1/completions")

    def __init__(self, model_dir: Path, settings: Settings, device: torch.device, batch_size: int, name: str) -> None:
        source = model_source(model_dir, settings)
        model = load_model(source, settings, device, generates=True)
        network = CausalNetwork(model)
        self.max_model_len = max_length(model.config, settings)
        self._name = name
        self._tokenizer = load_tokenizer(source, settings)
        self._template = read_chat_template(model_dir, settings) or self._tokenizer.chat_template
        self._vocabulary = network.config.vocab_size
        self._defaults = sampling_defaults(model)
        most = settings.max_num_seqs or batch_size
        with torch.inference_mode():
            decoder = decoder_for(network)
        self._generation = Generation(network, decoder, self._tokenizer, end_tokens(model, self._tokenizer), most)
        self._answers: dict[str, GenerationAnswer] = {}
        logger.info(
            "%s is served as %s: %s texts of up to %s tokens at once, on %s in %s.",
            type(model).__name__,
            name,
            most,
            self.max_model_len,
            device,
            str(model.dtype).removeprefix("torch."),
        )

    def begin(self, request_id: str, route: str, body: Mapping[str, Any]) -> None:
        """Takes a request up; RequestRefused when there is something wrong with it."""
        read = read_chat_request if route == "v1/chat/completions" else read_completion_request
        request = read(body, self._defaults)
        prompts = [self._chat_prompt(request)] if request.is_chat else [self._prompt(one) for one in request.prompts]
        wrong = [token for token in request.sampling.logit_bias if not 0 <= token < self._vocabulary]
        if wrong:
            raise RequestRefused(f"logit_bias names token {wrong[0]}, the model has {self._vocabulary}.", "logit_bias")
        asked = [
            TextRequest(prompt, self._limit(request, prompt), request.sampling, request.stop, number)
            for prompt in prompts
            for number in range(request.choices)
        ]
        echoes = [self._echo(prompt) if request.echo else "" for prompt in request.prompts or [""]]
        self._answers[request_id] = GenerationAnswer(
            request_id,
            self._name,
            request,
            self._generation.add(asked),
            [echo for echo in echoes for _ in range(request.choices)],
            sum(map(len, prompts)),
        )

    def replies(self) -> dict[str, Reply]:
        """One step for all requests that have begun: what each of them gets."""
        self._generation.step()
        return {request_id: answer.reply() for request_id, answer in self._answers.items()}

    def drop(self, request_id: str) -> None:
        """The request is answered, or nobody waits for it any more."""
        answer = self._answers.pop(request_id, None)
        if answer is not None:
            self._generation.drop(answer.texts)

    def _chat_prompt(self, request: GenerationRequest) -> Sequence[int]:
        if not self._template:
            raise RequestRefused(
                "This model has no chat template, so it cannot chat: use v1/completions, or set chat_template in the "
                "handler section of its model-config.yaml.",
                "messages",
            )
        try:
            text = self._tokenizer.apply_chat_template(
                request.messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates refuse by raising, and stumble over what they were not written for
            raise RequestRefused(
                f"The model's chat template does not take these messages: {error}", "messages"
            ) from error
        whole_characters(text, "messages")
        return self._checked(self._tokenizer(text, add_special_tokens=False)["input_ids"], "messages")

    def _prompt(self, prompt: Prompt) -> Sequence[int]:
        given = self._tokenizer(whole_characters(prompt, "prompt"))["input_ids"] if isinstance(prompt, str) else prompt
        return self._checked(given, "prompt")

    def _checked(self, tokens: Sequence[int], param: str) -> Sequence[int]:
        if not tokens:  # an empty text, and a tokenizer that begins texts with nothing
            start = self._tokenizer.bos_token_id
            if start is None:
                raise RequestRefused(f"{param} has no tokens.", param)
            return [start]
        wrong = [token for token in tokens if not 0 <= token < self._vocabulary]
        if wrong:
            raise RequestRefused(f"{param} has token {wrong[0]}; the model has {self._vocabulary}.", param)
        return tokens

    def _limit(self, request: GenerationRequest, prompt: Sequence[int]) -> int:
        """The most tokens of the answer."""
        param, room = "messages" if request.is_chat else "prompt", self.max_model_len - len(prompt)
        limit = max(room, 1) if request.max_tokens is None else request.max_tokens
        if limit > room:
            raise RequestRefused(
                f"This model's maximum context length is {self.max_model_len} tokens. This request has {len(prompt)} "
                f"in its {param} and asks for up to {limit} more, {len(prompt) + limit} together: shorten the {param} "
                "or lower max_tokens.",
                param,
                code="context_length_exceeded",
            )
        return limit

    def _echo(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        text: str = self._tokenizer.decode(prompt, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
