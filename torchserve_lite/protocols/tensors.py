"""The body of a V2 request or answer with binary tensors: JSON, and behind it bytes, for the worker to read."""

from __future__ import annotations

from torchserve_lite.core.requests import Headers, Part
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.http.answers import JSON

TENSORS = "Inference-Header-Content-Length"  # the header that says how many bytes the JSON has
OCTETS = "application/octet-stream"


def tensor_parts(body: Buffer, announced: str) -> tuple[Part, Part]:
    """``announced``: the header. Where it is 0, the worker knows what the body is."""
    size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else -1
    if not 0 <= size <= len(body):
        raise BadRequest(
            f"{TENSORS} is {announced!r:.40}; it must be the number of bytes of the JSON, of the body's {len(body)}."
        )
    whole = memoryview(body)
    return Part("body", whole[:size], JSON), Part("tensors", whole[size:], OCTETS)


def json_size(headers: Headers, length: int) -> int:
    """How much of an answer of ``length`` is its JSON."""
    return next((int(value) for name, value in headers if name == TENSORS), length)
