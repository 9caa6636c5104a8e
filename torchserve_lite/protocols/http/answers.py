"""Answers of the server's own, as opposed to a handler's."""

from __future__ import annotations

import json

from torchserve_lite.core.requests import InferenceResponse

JSON = "application/json"


def json_answer(value: object, status: int = 200, *, indent: int | None = None) -> InferenceResponse:
    """Content type exactly ``application/json``: KServe's SDK compares the whole string. ``indent`` for people: as
    TorchServe lays its own answers out."""
    text = json.dumps(value, indent=indent, ensure_ascii=indent is None) + ("\n" if indent else "")
    return InferenceResponse(text.encode(errors="replace"), status, content_type=JSON)
