"""What answers have in common, and answers of the server's own."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.requests import InferenceResponse

JSON = "application/json"

_COMMON = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    "Server": "torchserve-lite",
}

_random = random.Random(os.urandom(32))  # ids must differ, not be secret: a system call for each would cost more


def common_headers(config: HttpConfig) -> dict[str, str]:
    return {**_COMMON, **config.cors}


def _request_ids() -> Iterator[str]:
    endings = [f"{number:03x}" for number in range(0x1000)]
    while True:
        digits = f"{_random.getrandbits(128):032x}"
        beginning = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:29]}"
        for ending in endings:
            yield beginning + ending


new_request_id = _request_ids().__next__
"""A UUID of version 4. Its last digits count, which costs a third of drawing each anew."""


def json_answer(value: object, status: int = 200, *, indent: int | None = None) -> InferenceResponse:
    """Content type exactly ``application/json``: KServe's SDK compares the whole string. ``indent`` for people: as
    TorchServe lays its own answers out."""
    text = json.dumps(value, indent=indent, ensure_ascii=indent is None) + ("\n" if indent else "")
    return InferenceResponse(text.encode(errors="replace"), status, content_type=JSON)
