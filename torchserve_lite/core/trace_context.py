"""The header ``traceparent`` (https://www.w3.org/TR/trace-context/): which trace a request belongs to."""

from __future__ import annotations

import re
from typing import NamedTuple

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class TraceContext(NamedTuple):
    """Numbers in hexadecimal, as on the wire. ``sampled``: who began the trace records it."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def trace_context(header: str) -> TraceContext | None:
    """None where it says nothing that can be used. Later versions may add fields, which are left alone."""
    match = _FORM.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "00" and more is not None:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
