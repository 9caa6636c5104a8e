"""OpenAI's requests: read from the body of a call, checked, and refused in words that say what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_sampling import SamplingParameters

_MOST_CHOICES = 128
_MOST_INPUTS = 2048
_MOST_STOPS = 64  # each is looked for in each text at each step, for which all texts wait
_LEAST_TEMPERATURE = 1e-5  # below, logits divided by it are no numbers any more; the likeliest token is meant

# What a client may ask for and does not get: the answer would not be what it expects. Values that ask for nothing are
# taken as absent. Parameters that nobody has heard of are ignored, as OpenAI's own server would not do but others do.
_NOT_OFFERED: dict[str, Sequence[Any]] = {
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logprobs": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "suffix": (),
    "tool_choice": ("none", "auto"),
    "tools": (),
    "top_logprobs": (),
    "use_beam_search": (),
}

Prompt = str | Sequence[int]
Message = Mapping[str, Any]


class RequestRefused(Exception):
    """The request is wrong; ``param`` is the name of what is wrong with it."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code


@dataclass(frozen=True)
class GenerationRequest:
    """A request for a chat's next message (``messages``) or for what completes the ``prompts``."""

    messages: Sequence[Message]
    prompts: Sequence[Prompt]
    choices: int
    max_tokens: int | None
    sampling: SamplingParameters
    stop: Sequence[str]
    stream: bool
    include_usage: bool
    echo: bool

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)


@dataclass(frozen=True)
class EmbeddingRequest:
    """A request for the vectors of texts."""

    inputs: Sequence[Prompt]
    as_base64: bool


def read_body(row: Any) -> dict[str, Any]:
    """The JSON object that the client sent, whatever content type it gave. Of KServe's V1 an instance is the object."""
    body = row
    if isinstance(row, dict):
        body = next((row[name] for name in ("body", "data") if row.get(name) is not None), row)
    if isinstance(body, (bytes, bytearray, str)):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise RequestRefused(f"The request's body is not JSON: {error}") from error
        except RecursionError as error:
            raise RequestRefused("The request's body is nested too deeply.") from error
    if not isinstance(body, dict):
        raise RequestRefused("The request's body must be a JSON object.")
    return body


def whole_characters(text: str, param: str) -> str:
    """The text, if it is one: JSON may have half of a surrogate pair, of which no tokenizer makes anything."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"{error.object[error.start]!r} at character {error.start}"
        raise RequestRefused(f"{param} has half of a surrogate pair, {where}.", param) from error
    return text


def read_chat_request(body: Mapping[str, Any], defaults: SamplingParameters) -> GenerationRequest:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestRefused("messages must be a list of one message at least.", "messages")
    read = [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    limit = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    return _generation_request(body, defaults, messages=read, limit=limit)


def read_completion_request(body: Mapping[str, Any], defaults: SamplingParameters) -> GenerationRequest:
    prompts = _prompts(body, "prompt", _MOST_CHOICES)
    request = _generation_request(body, defaults, prompts=prompts, limit="max_tokens")
    if len(prompts) * request.choices > _MOST_CHOICES:
        raise RequestRefused(
            f"{len(prompts)} prompts with {request.choices} choices each are more than {_MOST_CHOICES}.", "n"
        )
    return replace(request, max_tokens=16 if request.max_tokens is None else request.max_tokens)


def read_embedding_request(body: Mapping[str, Any]) -> EmbeddingRequest:
    if body.get("dimensions") is not None:
        raise RequestRefused(
            "dimensions is not offered: vectors have the length that the model gives them.", "dimensions"
        )
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise RequestRefused(f"encoding_format can be float or base64, not {form!r}.", "encoding_format")
    return EmbeddingRequest(_prompts(body, "input", _MOST_INPUTS), form == "base64")


def _generation_request(
    body: Mapping[str, Any],
    defaults: SamplingParameters,
    *,
    limit: str,
    messages: Sequence[Message] = (),
    prompts: Sequence[Prompt] = (),
) -> GenerationRequest:
    for name, nothing in _NOT_OFFERED.items():
        if body.get(name) and body[name] not in nothing:
            raise RequestRefused(f"{name} is not offered by this server.", name, code="unsupported_parameter")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise RequestRefused('stream_options must be an object, such as {"include_usage": true}.', "stream_options")
    return GenerationRequest(
        messages,
        prompts,
        choices=_whole(body, "n", 1, 1, _MOST_CHOICES),
        max_tokens=None if body.get(limit) is None else _whole(body, limit, 1, 1),
        sampling=_sampling(body, defaults),
        stop=_stop(body.get("stop")),
        stream=_flag(body, "stream"),
        include_usage=_flag(options, "include_usage"),
        echo=_flag(body, "echo"),
    )


def _sampling(body: Mapping[str, Any], defaults: SamplingParameters) -> SamplingParameters:
    bias = body.get("logit_bias") or {}
    try:
        bias = {int(token): float(value) for token, value in bias.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise RequestRefused('logit_bias must map token ids to numbers, such as {"42": -100}.', "logit_bias") from error
    if not all(-100 <= value <= 100 for value in bias.values()):
        raise RequestRefused("logit_bias must have numbers from -100 to 100.", "logit_bias")
    temperature = float(_number(body, "temperature", defaults.temperature, 0, 2))
    top_p = float(_number(body, "top_p", defaults.top_p, 0, 1))
    if top_p == 0:  # nothing would be left to choose from
        raise RequestRefused("top_p must be more than 0.", "top_p")
    top_k = _whole(body, "top_k", defaults.top_k, -1)
    return SamplingParameters(
        temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
        top_p=top_p,
        top_k=max(top_k, 0),  # vLLM's -1 is all tokens as well
        frequency_penalty=float(_number(body, "frequency_penalty", 0, -2, 2)),
        presence_penalty=float(_number(body, "presence_penalty", 0, -2, 2)),
        logit_bias=bias,
        seed=None if body.get("seed") is None else _whole(body, "seed", 0, -(2**63), 2**64),
    )


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestRefused(f"{where} must be an object with a role and a content.", "messages")
    role = "system" if message["role"] == "developer" else message["role"]  # its new name, which few templates know
    return {**message, "role": role, "content": _content(message.get("content"), f"{where}.content")}


def _content(content: Any, where: str) -> str:
    """Templates of models that read text alone expect text, while a client may send it in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RequestRefused(f"{where} must be text: this model reads nothing else.", "messages")
        texts.append(part["text"])
    return "\n".join(texts)


def _prompts(body: Mapping[str, Any], name: str, most: int) -> Sequence[Prompt]:
    """One text or one list of tokens, or a list of either."""
    given = body.get(name)
    alone = isinstance(given, str) or (isinstance(given, list) and bool(given) and _are_tokens(given))
    prompts = [given] if alone else given
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) or (isinstance(prompt, list) and _are_tokens(prompt)) for prompt in prompts)
    ):
        raise RequestRefused(f"{name} must be text, a list of token ids, or a list of these.", name)
    if len(prompts) > most:
        raise RequestRefused(f"{name} has {len(prompts)} elements; {most} are the most.", name)
    return prompts


def _are_tokens(values: list[Any]) -> bool:
    return all(type(value) is int for value in values)


def _stop(stop: Any) -> Sequence[str]:
    strings = [stop] if isinstance(stop, str) else (stop or [])
    if not isinstance(strings, list) or not all(isinstance(string, str) and string for string in strings):
        raise RequestRefused("stop must be a text or a list of texts, none of them empty.", "stop")
    if len(strings) > _MOST_STOPS:
        raise RequestRefused(f"stop has {len(strings)} texts; {_MOST_STOPS} are the most.", "stop")
    return strings


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name) or False
    if not isinstance(value, bool):
        raise RequestRefused(f"{name} must be true or false.", name)
    return value


def _whole(body: Mapping[str, Any], name: str, default: int, low: int, high: int | None = None) -> int:
    value = _number(body, name, default, low, high)
    if value != int(value):
        raise RequestRefused(f"{name} must be a whole number.", name)
    return int(value)


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float | None = None) -> float:
    value = body.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestRefused(f"{name} must be a number.", name)
    if not low <= value <= (float("inf") if high is None else high) or value == float("inf"):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise RequestRefused(f"{name} must be {bounds}; it is {value}.", name)
    return value
