"""What a management call says about a model that is to be served: the parameters of ``POST /models``, which gRPC's
RegisterModel has, too. Source of the names: TorchServe's management API; ``max_workers`` is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import BadRequest

MOST_WORKERS = 1000  # of one model; each is a process
_LARGEST = 2**31 - 1  # they are Java's integers in TorchServe
_LONGEST_NAME = 200
RUNTIMES = ("python", "python3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """``synchronous``: the answer is to wait until the workers are ready."""

    options: ServingOptions
    synchronous: bool


@dataclass(frozen=True, slots=True)
class _Number:
    """Where a parameter goes in ``ServingOptions``. ``zero``: whether 0 says something, or nothing."""

    option: str
    unit: float = 1  # of a duration: in seconds
    zero: bool = False
    most: int = _LARGEST


NUMBERS = {
    "initial_workers": _Number("min_workers", zero=True, most=MOST_WORKERS),
    "max_workers": _Number("max_workers", most=MOST_WORKERS),
    "batch_size": _Number("batch_size"),
    "max_batch_delay": _Number("batch_delay", unit=0.001, zero=True),
    "response_timeout": _Number("response_timeout", unit=1.0),
    "startup_timeout": _Number("startup_timeout", unit=1.0),
}


def registration_of(values: Mapping[str, object]) -> Registration:
    """BadRequest names the parameter that cannot be used."""
    url = _text(values, "url")
    if not url:
        raise BadRequest("Parameter url is required.")
    options: dict[str, Any] = {}
    for name, number in NUMBERS.items():
        value = _whole_number(values, name, 0 if number.zero else 1, number.most)
        if value is not None:
            options[number.option] = value * number.unit
    low, high = options.get("min_workers"), options.get("max_workers")
    if low is not None and high is not None and low > high:
        raise BadRequest(f"initial_workers={low} is more than max_workers={high}: raise the one or lower the other.")
    runtime = _text(values, "runtime")
    if runtime == "LSP":
        raise BadRequest("runtime=LSP is for handlers in C++, which this server does not run. Leave runtime out.")
    if runtime and runtime not in RUNTIMES:
        raise BadRequest(f"Invalid RuntimeType value: {runtime:.80}")
    return Registration(
        options=ServingOptions(
            url=url,
            name=_name(values, "model_name"),
            handler=_text(values, "handler") or None,
            runtime=runtime or None,
            s3_sse_kms=_flag(values, "s3_sse_kms", default=False),
            **options,
        ),
        synchronous=_flag(values, "synchronous", default=True),
    )


def workflow_options_of(values: Mapping[str, object]) -> ServingOptions:
    """Those of ``POST /workflows``; the timeouts are for all nodes. BadRequest as above."""
    url = _text(values, "url")
    if not url:
        raise BadRequest("Parameter url is required.")
    names = ("response_timeout", "startup_timeout")
    response, startup = (_whole_number(values, name, 1, _LARGEST) for name in names)
    return ServingOptions(
        url=url,
        name=_name(values, "workflow_name"),
        response_timeout=None if response is None else float(response),
        startup_timeout=None if startup is None else float(startup),
        s3_sse_kms=_flag(values, "s3_sse_kms", default=False),
    )


def parameters_of(body: bytes) -> Mapping[str, object]:
    """Those of a JSON body."""
    try:
        values = json.loads(body, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is no JSON object: {error}.") from error
    if not isinstance(values, dict):
        raise BadRequest(f"The body must be a JSON object of parameters, not a {type(values).__name__}.")
    return values


def _once_each(pairs: Sequence[tuple[str, object]]) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise BadRequest(f"{name:.80} is in the JSON body more than once; which one is meant cannot be known.")
        values[name] = value
    return values


def _text(values: Mapping[str, object], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {json.dumps(value)[:80]}; it must be a string.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRequest(f"{name} is {json.dumps(value)[:80]}; it holds half a character, which has no UTF-8.")
    return value.strip()


def _name(values: Mapping[str, object], parameter: str) -> str | None:
    name = _text(values, parameter)
    if len(name) > _LONGEST_NAME or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise BadRequest(
            f"{parameter} is {name[:80]!r}; it must have at most {_LONGEST_NAME} characters, and no control characters."
        )
    return name or None


def _whole_number(values: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    """None: not given, or 0 where that says nothing. Numbers may be written as text, as with TorchServe."""
    value = values.get(name)
    if value is None or value == "":
        return None
    text = str(value).strip().removesuffix(".0")
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise BadRequest(f"{name} is {json.dumps(value)[:80]}; it must be a whole number.")
    number = int(text)
    if number == 0 and least > 0:
        return None
    if not least <= number <= most:
        raise BadRequest(f"{name}={number}: it must be a whole number from {least} to {most}.")
    return number


def _flag(values: Mapping[str, object], name: str, *, default: bool) -> bool:
    """Only the word ``true``, in any case, is true, as with TorchServe."""
    value = values.get(name)
    return default if value is None else str(value).lower() == "true"
