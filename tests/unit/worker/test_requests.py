"""The processor of a worker's request: headers as ever, and nothing decoded or made that nobody asks for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ts.context import Context, RequestHeaders, RequestProcessor, ResponseHeaders

from torchserve_lite.ipc.messages import Call, Predict, SentPart, decode_to_worker, encode
from torchserve_lite.worker.inputs import headers_of
from torchserve_lite.worker.requests import CallProcessor, Request

SENT = (("X-Own", "1"), ("Cookie", "a=1"), ("cookie", "b=2"), ("describe", "client's"), ("url_path", "v1"))
UNREADABLE = msgspec.Raw(b"\xc1")


def received(verb: str = "predict", body: bytes = b"x") -> Call:
    call = Call("id", verb, (SentPart("body", body, "image/png"),), SENT)
    predict = decode_to_worker([bytearray(piece) for piece in encode(Predict(1, (call,)))])
    assert isinstance(predict, Predict)
    return predict.calls[0]


ASK: list[Callable[[RequestProcessor], Any]] = [
    lambda processor: processor.get_request_properties(),
    lambda processor: list(processor.get_request_properties()),
    lambda processor: processor.get_request_property("x-own"),
    lambda processor: processor.get_request_property("COOKIE"),
    lambda processor: processor.get_request_property("explain"),
    lambda processor: processor.get_request_property("Explain"),
    lambda processor: processor.get_request_property("describe"),
    lambda processor: processor.get_request_property("body"),
    lambda processor: processor.get_request_property("missing"),
    lambda processor: processor._request_header,
]


@pytest.mark.parametrize("verb", ["predict", "explain", "describe"])
@pytest.mark.parametrize("ask", ASK)
def test_headers_are_those_of_a_processor_that_had_them_from_the_start(
    ask: Callable[[RequestProcessor], Any], verb: str
) -> None:
    call = received(verb)
    told = ask(CallProcessor(call))
    expected = ask(RequestProcessor(RequestHeaders(headers_of(call))))
    assert (told, type(told)) == (expected, type(expected))


def test_header_that_a_handler_has_changed_stays_changed() -> None:
    processor = CallProcessor(received())
    processor.get_request_properties()["explain"] = "True"
    assert processor.get_request_property("explain") == "True"


def test_headers_are_not_decoded_to_tell_whether_to_explain() -> None:
    """Each request in an envelope asks that."""
    processor = CallProcessor(Call("id", "explain", (), UNREADABLE))
    assert processor.get_request_property("explain") == "True"
    with pytest.raises(msgspec.DecodeError):
        processor.get_request_property("describe")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copy_has_the_headers_and_not_the_body(copied: Callable[[Any], Any]) -> None:
    processor = CallProcessor(received(body=b"x" * 10_000))
    processor.add_response_property("X-Set", "1")
    twin = copied(processor)
    assert twin.get_request_properties() == processor.get_request_properties()
    assert twin.get_request_property("explain") == "False"
    assert twin.get_response_headers() == {"X-Set": "1"}
    assert len(pickle.dumps(processor)) < 1000


SAY: list[Callable[[RequestProcessor], Any]] = [
    lambda processor: processor.report_status(201),
    lambda processor: processor.report_status(200, "Fine"),
    lambda processor: processor.add_response_property("X-A", "1"),
    lambda processor: processor.get_response_headers().update({"X-A": "1"}),
    lambda processor: processor._response_header.update({"X-A": "1"}),
]


@pytest.mark.parametrize("say", SAY)
@pytest.mark.parametrize("processor", [CallProcessor(received()), RequestProcessor({})], ids=["worker's", "plain"])
def test_processor_is_untouched_until_something_is_said(
    processor: RequestProcessor, say: Callable[[RequestProcessor], Any]
) -> None:
    fresh = copy.deepcopy(processor)
    assert fresh.untouched
    assert type(copy.deepcopy(processor).get_response_headers()) is ResponseHeaders
    say(fresh)
    assert not fresh.untouched


@pytest.mark.parametrize("spelling", ["traceparent", "Traceparent", None])
def test_handler_finds_the_trace_that_the_server_says(spelling: str | None) -> None:
    """Which is the server's own span, when it traces: the handler's lie below that."""
    headers = (("a", "b"),) if spelling is None else ((spelling, "the client's"), ("a", "b"))
    found = headers_of(Call("id", "predict", (), headers, trace_context="the server's"))
    assert {name: value for name, value in found.items() if name.lower() == "traceparent"} == {
        spelling or "traceparent": "the server's"
    }


def test_deadline_of_a_request_is_on_this_processes_clock() -> None:
    limited, free = (Request(0, Call("id", "predict", (), (), remaining=remaining), 100.0) for remaining in (2.5, None))
    context = Context("model", "", {}, 1, None, "")
    context.request_processor = [limited.processor, free.processor]
    assert (context.get_deadline(0), context.get_deadline(1), context.deadline) == (102.5, None, 102.5)
    context.request_processor = [free.processor]
    assert context.deadline is None
