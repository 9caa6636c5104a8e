"""From what a handler returned to the bytes and the content type of a reply."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from torchserve_lite.ipc.messages import Reply
from torchserve_lite.worker.handlers import json_ready

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


_NO_WIRE_FORM = (TypeError, ValueError, RecursionError)


class Unserialisable(Exception):
    """The handler returned something that has no wire form."""


def encode(value: Any) -> tuple[bytes, str]:
    """Body and content type: bytes as they are, text as UTF-8, a tensor as ``torch.save`` writes it, else JSON."""
    if isinstance(value, bytes | bytearray):
        return bytes(value), BYTES
    if _is_tensor(value):
        return _saved(value), BYTES
    try:
        if isinstance(value, str):
            return value.encode(), TEXT
        return json.dumps(value, indent=2).encode(), JSON
    except _NO_WIRE_FORM as error:
        raise Unserialisable(f"{type(value).__name__}: {error}") from error


def encode_enveloped(value: Any) -> tuple[bytes, str]:
    """As ``encode``, for the KServe protocols: compact, and never the tokens NaN or Infinity, which are no JSON."""
    if isinstance(value, str | bytes | bytearray):
        return encode(value)[0], JSON
    try:
        return json.dumps(value, allow_nan=False).encode(), JSON
    except _NO_WIRE_FORM:
        return _encode_replaced(value), JSON


def _encode_replaced(value: Any) -> bytes:
    try:
        return json.dumps(json_ready(value), allow_nan=False).encode()
    except _NO_WIRE_FORM as error:
        raise Unserialisable(str(error)) from error


def reply_of(value: Any, processor: Any, *, enveloped: bool = False) -> Reply:
    """The reply to one request: the value's bytes, and what the handler set on the request's processor."""
    body, kind = encode_enveloped(value) if enveloped else encode(value)
    headers = {_text(name): _text(value) for name, value in processor.get_response_headers().items()}
    chosen = next((headers.pop(name) for name in list(headers) if name.lower() == "content-type"), kind)
    return Reply(
        body,
        _status(processor.get_response_status_code()),
        _text(processor.get_response_status_phrase() or ""),
        chosen,
        tuple(headers.items()),
    )


def _status(code: Any) -> int:
    """Anything but a final answer's status would break the protocol of the connection, or end it."""
    try:
        status = int(code or 200)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unserialisable(f"the response status {code!r:.40} is no number") from error
    if not 200 <= status <= 599:
        raise Unserialisable(f"the response status must be from 200 to 599, not {max(-(10**6), min(status, 10**6))}")
    return status


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _saved(tensor: Any) -> bytes:
    buffer = io.BytesIO()
    sys.modules["torch"].save(tensor, buffer)
    return buffer.getvalue()
