"""From a call's parts to the row a handler sees: TorchServe's decoding by content type, with its gaps mended."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torchserve_lite.core.requests import Headers
from torchserve_lite.ipc.messages import Call, SentPart, header_pairs
from torchserve_lite.worker.log_lines import report

_SERVERS_OWN = "url_path"  # added after the client's headers, of which it replaces one of that name


def row_of(call: Call, *, decode: bool) -> dict[str, Any]:
    """``{part name: value}``. Several parts of one name are a list under it, where TorchServe keeps the last one."""
    read = _value if decode else _received
    if len(call.parts) == 1:
        part = call.parts[0]
        return {part.name: read(part)}
    return _by_name([(part.name, read(part)) for part in call.parts])


def headers_of(call: Call) -> dict[str, Any]:
    """What ``context.get_all_request_header`` shows: each part's content type (a dict!), then the HTTP headers, and
    what is asked as TorchServe tells it, whatever a client says: ``describe``, or whether to ``explain``."""
    headers = _by_name([(part.name, {"content-type": part.content_type}) for part in call.parts])
    headers.update(_joined(header_pairs(call)))
    if call.trace_context:  # where the server traces, its own span instead of the client's
        name = next((name for name in headers if name.lower() == "traceparent"), "traceparent")
        headers[name] = call.trace_context
    if call.verb == "describe":
        headers["describe"] = "True"
    else:
        headers["explain"] = explain_told(call)
    return headers


def explain_told(call: Call) -> str:
    return "True" if call.verb == "explain" else "False"


def _by_name(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _joined(headers: Headers) -> dict[str, str]:
    """A header that comes several times, in whatever spelling, is one with all its values: HTTP's own rule."""
    spellings: dict[str, str] = {}
    joined: dict[str, str] = {}
    for name, value in headers:
        spelling = spellings.setdefault(name.lower(), name)
        if spelling in joined and name != _SERVERS_OWN:
            value = f"{joined[spelling]}{'; ' if name.lower() == 'cookie' else ', '}{value}"
        joined[spelling] = value
    return joined


def _value(part: SentPart) -> Any:
    """Parsed JSON, text, or a bytearray; what cannot be decoded stays a bytearray, which handlers know to expect."""
    kind = _kind(part.content_type)
    if not kind:
        return _received(part)
    try:
        return json.loads(_received(part)) if kind == "json" else _received(part).decode()
    except (ValueError, RecursionError) as error:
        report(logging.WARNING, f"Part {part.name!r} is not what its type {part.content_type!r} says: {error}")
    return _received(part)


@lru_cache(maxsize=256)
def _kind(content_type: str) -> str:
    """``json``, ``text``, or empty: neither."""
    kind = content_type.lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return "json"
    return "text" if kind.startswith("text") else ""


def _received(part: SentPart) -> bytearray:
    """A large one was received into a bytearray of its own, and is the handler's now."""
    assert not isinstance(part.data, int)
    return part.data if isinstance(part.data, bytearray) else bytearray(part.data)
