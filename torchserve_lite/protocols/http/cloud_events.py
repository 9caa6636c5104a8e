"""CloudEvents on KServe's routes: who asks by an event is answered by one, in the mode in which it came.

In binary mode an event's attributes are headers, and its data is the body. In structured mode the body is an object
with the attributes and ``data``; the worker takes the request out of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import Buffer
from torchserve_lite.protocols.http.answers import JSON, new_request_id
from torchserve_lite.protocols.http.requests import header, media_type

STRUCTURED = "application/cloudevents+json"
_PREFIX = "ce-"
_REQUIRED = ("specversion", "id", "source", "type")
_OURS = {*_REQUIRED, "time", "datacontenttype", "data", "data_base64"}

_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw])


class CloudEvents:
    def __init__(self, config: HttpConfig) -> None:
        self._config = config

    def answer(self, request: web.Request, body: Buffer, model: str, answer: InferenceResponse) -> InferenceResponse:
        """``answer``, as an event if ``request`` is one. An error is none, nor is what is no JSON document."""
        if answer.status != 200 or answer.stream is not None:
            return answer
        if all(f"{_PREFIX}{name}" in request.headers for name in _REQUIRED):
            given = {
                name.lower(): header(request, name) for name in request.headers if name.lower().startswith(_PREFIX)
            }
            sent = self._attributes(model, {name.removeprefix(_PREFIX): value for name, value in given.items()})
            headers = tuple((f"{_PREFIX}{name}", value) for name, value in sent.items())
            return replace(answer, headers=(*answer.headers, *headers))
        if media_type(request).lower() == STRUCTURED and answer.content_type == JSON:
            given = _attributes_in(body) if self._config.event_merge else {}
            event = json.dumps({**self._attributes(model, given), "datacontenttype": JSON})
            whole = b"".join([event[:-1].encode(), b', "data": ', answer.body, b"}"])
            return replace(answer, body=whole, content_type=STRUCTURED)
        return answer

    def _attributes(self, model: str, given: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in given.items() if name not in _OURS} if self._config.event_merge else {}
        return {
            **others,
            "specversion": "1.0",
            "id": new_request_id(),
            "source": self._config.event_source or f"io.kserve.inference.{model}",
            "type": self._config.event_type,
            "time": datetime.now(UTC).isoformat(),
        }


def _attributes_in(body: Buffer) -> dict[str, Any]:
    """Without decoding the data, which may be large."""
    try:
        return {name: json.loads(bytes(raw)) for name, raw in _attributes.decode(body).items() if name not in _OURS}
    except (ValueError, RecursionError):  # which json and msgspec read in two ways; it has been answered, after all
        return {}
