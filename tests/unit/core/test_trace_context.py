"""What of a traceparent is understood."""

from __future__ import annotations

import pytest

from torchserve_lite.core.trace_context import TraceContext, trace_context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", True, id="recorded"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", False, id="not recorded"),
        pytest.param(f"00-{TRACE}-{SPAN}-03", True, id="with a flag to come"),
        pytest.param(f"01-{TRACE}-{SPAN}-01-more", True, id="a later version with more fields"),
    ],
)
def test_trace_is_read(header: str, sampled: bool) -> None:
    assert trace_context(header) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="nothing"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", id="version that cannot be"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", id="trace of zeros"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="span of zeros"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", id="capital letters"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", id="more than version 00 has"),
        pytest.param(f"00-{TRACE}-{SPAN}-1", id="too short"),
        pytest.param(f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", id="two of them"),
        pytest.param(f"00-{TRACE}-{SPAN}-01\n", id="line break"),
    ],
)
def test_what_is_no_trace_is_none(header: str) -> None:
    assert trace_context(header) is None


def test_trace_is_written_as_it_is_read() -> None:
    context = TraceContext(TRACE, SPAN, True)
    assert trace_context(str(context)) == context
