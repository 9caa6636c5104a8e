"""From what a handler returned to the bytes and the content type of a reply.

What a handler returns may be of any class, whose methods may raise or lie. So the parts of a reply are made from it by
methods of the built-in types, and whatever is raised on the way comes out for the caller to catch.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from torchserve_lite.ipc.messages import Reply
from torchserve_lite.worker.indented import indented
from torchserve_lite.worker.tracebacks import class_name, text_of

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

_USUAL = {dict, list, int, float}
_compact = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make an encoder for each answer
_NO_WIRE_FORM = (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError)


class Unserialisable(Exception):
    """The handler returned something that has no wire form."""


class ImpossibleStatus(Exception):
    """The handler chose a status that no final answer can have."""


def encode(value: Any) -> tuple[bytes | bytearray, str]:
    """Body and content type: bytes as they are (the handler does not run again before they are sent), text as UTF-8, a
    tensor as ``torch.save`` writes it, else JSON."""
    kind = type(value)
    if kind is str:
        return _encoded_text(value), TEXT
    if kind in _USUAL and (text := indented(value)) is not None:
        return text.encode(), JSON
    if isinstance(value, bytes | bytearray | memoryview):
        return value if type(value) is bytes or type(value) is bytearray else bytes(memoryview(value)), BYTES
    if _is_tensor(value):
        return _saved(value), BYTES
    if isinstance(value, str):
        return _encoded_text(value), TEXT
    try:
        return json.dumps(value, indent=2).encode(), JSON
    except _NO_WIRE_FORM:
        return _encode_replaced(value, indent=2, allow_nan=True), JSON


def encode_enveloped(value: Any) -> tuple[bytes | bytearray, str]:
    """As ``encode``, for the KServe protocols: compact, and never the tokens NaN or Infinity, which are no JSON."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return encode(value)[0], JSON
    try:
        return _compact(value).encode(), JSON
    except _NO_WIRE_FORM:
        return _encode_replaced(value, indent=None, allow_nan=False), JSON


def _encode_replaced(value: Any, *, indent: int | None, allow_nan: bool) -> bytes:
    """With what JSON cannot carry replaced: arrays and tensors by lists, dates by text, and so on."""
    from ts.torch_handler.request_envelope.base import plain

    try:
        return json.dumps(plain(value, keep_nan=allow_nan), indent=indent, allow_nan=allow_nan).encode()
    except _NO_WIRE_FORM as error:
        raise Unserialisable(f"{class_name(value)}: {text_of(error)}") from error


def reply_of(value: Any, processor: Any, *, enveloped: bool = False) -> Reply:
    """The reply to one request: the value's bytes, and what the handler set on the request's processor."""
    if processor.untouched:
        body, kind = encode_enveloped(value) if enveloped else encode(value)
        return Reply(body, content_type=kind)
    status = status_of(processor.get_response_status_code())
    body, kind = encode_enveloped(value) if enveloped else encode(value)
    headers: list[tuple[str, str]] = []
    for name, entry in [(_text(name), _text(entry)) for name, entry in processor.get_response_headers().items()]:
        if name.lower() == "content-type":
            kind = entry
        else:
            headers.append((name, entry))
    reason = processor.get_response_status_phrase()
    return Reply(body, status, "" if reason is None else _text(reason), kind, tuple(headers))


def status_of(code: Any) -> int:
    """``code`` as the status of a final answer: any other would break the protocol of the connection, or end it."""
    try:
        status = int(code) if isinstance(code, int | str) or code == int(code) else 0
    except (TypeError, ValueError, OverflowError):
        status = 0
    if not 200 <= status <= 599:
        shown = f"{text_of(code):.40}"
        raise ImpossibleStatus(f"The handler set the response status {shown}; it must be a number from 200 to 599.")
    return status


def _text(value: Any) -> str:
    return str.encode(str(value), "utf-8", "replace").decode()


def _encoded_text(text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError as error:
        raise Unserialisable(f"{class_name(text)}: {error}") from error


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _saved(tensor: Any) -> bytes:
    buffer = io.BytesIO()
    sys.modules["torch"].save(tensor, buffer)
    return buffer.getvalue()
