"""TorchServe's messages between its server and its workers, as far as Python code makes them by hand.

This server's workers speak another protocol. Handlers import from here for streaming; tests look at encoded answers.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ts.utils.util import deprecated

if TYPE_CHECKING:
    from ts.context import Context

_END = struct.pack("!i", -1)
_STREAM_MARK = {"ts_stream_next": "true"}


@deprecated("1.0.0", "ts.handler_utils.utils.send_intermediate_predict_response")
def send_intermediate_predict_response(
    ret: Sequence[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Context | None = None
) -> None:
    """The older place of ``ts.handler_utils.utils.send_intermediate_predict_response``."""
    from ts.handler_utils.utils import send_intermediate_predict_response as send  # it imports this module

    send(ret, req_id_map, message, code, context)


def create_predict_response(
    ret: Sequence[Any] | None,
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Context | None = None,
    ts_stream_next: bool = False,
) -> bytearray:
    """One message with the answers of a batch; without ``ret`` each request gets the error ``message``."""
    try:
        bodies = {index: b"error" if ret is None else _encode_value(ret[index]) for index in req_id_map}
    except TypeError:
        return create_predict_response(None, req_id_map, "Unsupported model output data type.", 503)
    encoded = bytearray(struct.pack("!i", code) + _text(message))
    for index, request_id in req_id_map.items():
        encoded += _text(request_id) + _answer_head(index, code, context, ts_stream_next) + _sized(bodies[index])
    return encoded + _END


def create_load_model_response(code: int, message: str) -> bytearray:
    return bytearray(struct.pack("!i", code) + _text(message) + _END)


def encode_response_headers(resp_hdr_map: Mapping[str, str]) -> bytearray:
    encoded = bytearray(struct.pack("!i", len(resp_hdr_map)))
    for name, value in resp_hdr_map.items():
        encoded += _text(name) + _text(value)
    return encoded


def retrieve_msg(conn: Any) -> NoReturn:
    raise RuntimeError("Workers of torchserve-lite do not read TorchServe's messages: there is nothing to retrieve.")


def _answer_head(index: int, code: int, context: Context | None, ts_stream_next: bool) -> bytes:
    """Content type, status, reason phrase and headers of one answer."""
    if context is None:
        return bytes(_text("") + struct.pack("!i", code) + _text("") + encode_response_headers({}))
    status, phrase = context.get_response_status(index)
    headers = {**context.get_response_headers(index), **(_STREAM_MARK if ts_stream_next else {})}
    content_type = context.get_response_content_type(index) or ""
    return bytes(
        _text(content_type) + struct.pack("!i", status) + _text(phrase or "") + encode_response_headers(headers)
    )


def _encode_value(value: Any) -> bytes:
    """The bytes of a handler's result; TypeError for what has none."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()
    return json.dumps(value, indent=2).encode()


def _text(text: str) -> bytes:
    return _sized(text.encode())


def _sized(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content
