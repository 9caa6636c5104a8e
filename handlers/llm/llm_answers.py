"""OpenAI's answers: whole ones, the events of streams, and errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_generation import Text
from llm_requests import GenerationRequest, RequestRefused

JSON = "application/json"
EVENTS = "text/event-stream"

_DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """What a client gets in one step. ``last`` is what continuous batching asks of a result: None for an answer that is
    whole, else whether this piece of it is the last. A ``value`` of None: nothing is sent yet."""

    value: Any
    last: bool | None = None
    status: int = 200
    content_type: str = JSON


NOTHING_YET = Reply(None, last=False)


def refusal(error: RequestRefused) -> Reply:
    return Reply(
        _error(error.message, "invalid_request_error", param=error.param, code=error.code), status=error.status
    )


def failure(message: str) -> Reply:
    """It is not the client's fault."""
    return Reply(_error(message, "server_error"), status=500)


def model_list(models: Sequence[Mapping[str, Any]]) -> Reply:
    return Reply({"object": "list", "data": models})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class GenerationAnswer:
    """One request's answer while it comes into being: ``reply`` is asked after each step.

    ``texts`` are its choices in order; ``echoes`` what stands before the text of each.
    """

    def __init__(
        self,
        request_id: str,
        model: str,
        request: GenerationRequest,
        texts: Sequence[Text],
        echoes: Sequence[str],
        prompt_tokens: int,
    ) -> None:
        self.texts = texts
        self._request = request
        self._echoes = echoes
        self._prompt_tokens = prompt_tokens
        self._has_begun = False
        self._closed: set[int] = set()  # choices whose end the client has been told
        kind = "chat.completion" if request.is_chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if request.is_chat else 'cmpl'}-{request_id}",
            "object": f"{kind}.chunk" if request.stream and request.is_chat else kind,
            "created": int(time.time()),
            "model": model,
        }

    def reply(self) -> Reply:
        if any(text.error is not None for text in self.texts):
            reply = failure("The model could not go on with this request; its log says why.")
            if not self._has_begun:
                return reply
            return Reply(_event(reply.value) + _DONE, last=True, content_type=EVENTS)
        if self._request.stream:
            return self._next_piece()
        if all(text.ended for text in self.texts):
            return Reply({**self._head, "choices": self._choices(), "usage": self._usage()})
        return NOTHING_YET

    def _next_piece(self) -> Reply:
        events = [] if self._has_begun else self._beginning()
        self._has_begun = True
        for index, text in enumerate(self.texts):
            if index in self._closed:
                continue
            said = text.take()
            if said:
                events.append(self._chunk(index, said))
            if text.ended:
                events.append(self._chunk(index, "", text.finish_reason))
                self._closed.add(index)
        is_last = len(self._closed) == len(self.texts)
        if is_last:
            if self._request.include_usage:
                events.append(_event({**self._head, "choices": [], "usage": self._usage()}))
            events.append(_DONE)
        return Reply("".join(events), last=is_last, content_type=EVENTS) if events else NOTHING_YET

    def _beginning(self) -> list[str]:
        if self._request.is_chat:
            return [
                self._event_of(index, {"delta": {"role": "assistant", "content": ""}}, None)
                for index, _ in enumerate(self.texts)
            ]
        return [self._chunk(index, echo) for index, echo in enumerate(self._echoes) if echo]

    def _chunk(self, index: int, said: str, finish_reason: str | None = None) -> str:
        if not self._request.is_chat:
            return self._event_of(index, {"text": said}, finish_reason)
        return self._event_of(index, {"delta": {"content": said} if said else {}}, finish_reason)

    def _event_of(self, index: int, content: Mapping[str, Any], finish_reason: str | None) -> str:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
        known = {"usage": None} if self._request.include_usage else {}  # OpenAI has it in each event, when asked for it
        return _event({**self._head, "choices": [choice], **known})

    def _choices(self) -> list[dict[str, Any]]:
        choices = []
        for index, (text, echo) in enumerate(zip(self.texts, self._echoes, strict=True)):
            said = echo + text.take()
            content = {"message": {"role": "assistant", "content": said}} if self._request.is_chat else {"text": said}
            choices.append({"index": index, **content, "logprobs": None, "finish_reason": text.finish_reason})
        return choices

    def _usage(self) -> dict[str, int]:
        return usage(self._prompt_tokens, sum(len(text.tokens) for text in self.texts))


def _error(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
