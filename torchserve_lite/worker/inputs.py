"""From a call's parts to the row a handler sees: TorchServe's decoding by content type, with its gaps mended."""

from __future__ import annotations

import json
import logging
from typing import Any

from torchserve_lite.ipc.messages import Call, SentPart

log = logging.getLogger(__name__)


def row_of(call: Call, *, decode: bool) -> dict[str, Any]:
    """``{part name: value}``. Of parts with the same name the last one counts, as in TorchServe."""
    return {part.name: _value(part) if decode else _received(part) for part in call.parts}


def headers_of(call: Call) -> dict[str, Any]:
    """What ``context.get_all_request_header`` shows: each part's content type (a dict!), then the HTTP headers, and
    what is asked as TorchServe tells it, whatever a client says: ``describe``, or whether to ``explain``."""
    headers: dict[str, Any] = {part.name: {"content-type": part.content_type} for part in call.parts}
    headers.update(call.headers)
    if call.verb == "describe":
        headers["describe"] = "True"
    else:
        headers["explain"] = str(call.verb == "explain")
    return headers


def _value(part: SentPart) -> Any:
    """Parsed JSON, text, or a bytearray; what cannot be decoded stays a bytearray, which handlers know to expect."""
    kind = part.content_type.lower()
    if _is_json(kind):
        try:
            return json.loads(_received(part))
        except (ValueError, RecursionError) as error:
            log.warning("part %r claims to be %s but is not: %s", part.name, part.content_type, error)
    elif kind.startswith("text"):
        try:
            return _received(part).decode()
        except UnicodeDecodeError as error:
            log.warning("part %r claims to be text but is no UTF-8: %s", part.name, error)
    return _received(part)


def _received(part: SentPart) -> bytearray:
    """A large one was received into a bytearray of its own, and is the handler's now."""
    assert not isinstance(part.data, int)
    return part.data if isinstance(part.data, bytearray) else bytearray(part.data)


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
