"""What management requests say in their query: numbers within bounds, pages, parameters that come once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.http.management_operations import MOST_MODELS
from torchserve_lite.protocols.management import DEFAULT_PAGE, page


def page_of(request: web.Request, name: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = single_values(request)
    limit = whole_number_of(values, "limit", DEFAULT_PAGE, most=MOST_MODELS)
    return page(name, entries, limit, whole_number_of(values, "next_page_token", 0, most=MOST_MODELS))


def whole_number_of(values: Mapping[str, str], name: str, default: int, *, most: int, least: int | None = None) -> int:
    """``least`` None: what is too small means the default or the beginning, as in TorchServe."""
    given = values.get(name)
    if given is None:
        return default
    bounds = f"at most {most}" if least is None else f"from {least} to {most}"
    if not re.fullmatch(r"-?[0-9]{1,9}", given):
        raise BadRequest(f"{name} is {given[:80]!r}; it must be a whole number {bounds}.")
    number = int(given)
    if number > most or (least is not None and number < least):
        raise BadRequest(f"{name}={number}: it must be a whole number {bounds}.")
    return number


def single_values(request: web.Request) -> Mapping[str, str]:
    """The parameters of the query; BadRequest when one is given more than once."""
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise BadRequest(f"{name:.80} is given more than once in the query; which one is meant cannot be known.")
    return request.query
