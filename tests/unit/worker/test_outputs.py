"""From what a handler returned to the bytes and the content type of a reply."""

from __future__ import annotations

from typing import Any

import pytest

from torchserve_lite.ipc import messages
from torchserve_lite.ipc.messages import Answer, Answers, Reply
from torchserve_lite.worker.outputs import Unserialisable, encode, encode_enveloped, reply_of

JSON, TEXT, BYTES = "application/json", "text/plain; charset=utf-8", "application/octet-stream"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

HOPELESS = [
    pytest.param(object(), id="object"),
    pytest.param({1, 2}, id="set"),
    pytest.param({("a", 1): 2}, id="tuple as a key"),
    pytest.param(CYCLE, id="cycle"),
    pytest.param(nested(100_000), id="nested too deeply"),
    pytest.param("\ud800", id="text that is no utf-8"),
]


@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        pytest.param(b"\xff", b"\xff", BYTES, id="bytes"),
        pytest.param(bytearray(b"\xff"), b"\xff", BYTES, id="bytearray"),
        pytest.param("sn\u00f6", "sn\u00f6".encode(), TEXT, id="text"),
        pytest.param(42, b"42", JSON, id="number"),
        pytest.param(None, b"null", JSON, id="none"),
        pytest.param({"a": [1]}, b'{\n  "a": [\n    1\n  ]\n}', JSON, id="object, indented as by torchserve"),
        pytest.param(float("nan"), b"NaN", JSON, id="nan as by torchserve"),
    ],
)
def test_result_is_encoded_by_its_type(value: Any, body: bytes, kind: str) -> None:
    assert encode(value) == (body, kind)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        pytest.param({"predictions": [2]}, b'{"predictions": [2]}', id="compact"),
        pytest.param({"x": [float("nan"), float("inf"), 1.0]}, b'{"x": [null, null, 1.0]}', id="no nan"),
        pytest.param("already text", b"already text", id="text"),
    ],
)
def test_enveloped_answer_is_json_that_every_parser_reads(value: Any, body: bytes) -> None:
    assert encode_enveloped(value) == (body, JSON)


@pytest.mark.parametrize("value", HOPELESS)
@pytest.mark.parametrize("encoder", [encode, encode_enveloped])
def test_hopeless_result_is_one_kind_of_error(encoder: Any, value: Any) -> None:
    with pytest.raises(Unserialisable):
        encoder(value)


class Processor:
    """What a handler set on its answer."""

    def __init__(self, headers: dict[Any, Any] | None = None, status: Any = 200, phrase: Any = None) -> None:
        self.get_response_headers = lambda: headers or {}
        self.get_response_status_code = lambda: status
        self.get_response_status_phrase = lambda: phrase


def test_handlers_content_type_replaces_ours() -> None:
    reply = reply_of("x", Processor({"Content-Type": "text/html", "X-Own": "1"}))
    assert (reply.content_type, reply.headers) == ("text/html", (("X-Own", "1"),))


@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(Processor({"X-Count": 3, "X-Odd": "\ud800"}), id="headers that are no text"),
        pytest.param(Processor(status="202", phrase=b"Noted"), id="status and phrase of other types"),
        pytest.param(Processor(status=None), id="no status"),
    ],
)
def test_whatever_a_handler_sets_can_be_sent(processor: Processor) -> None:
    """Structs check no types when they are made: a wrong one was found by the parent, which ended the worker."""
    message = Answers(1, (Answer(0, reply_of("x", processor)),))
    received = messages.decode_from_worker([bytearray(piece) for piece in messages.encode(message)])
    assert isinstance(received, Answers)
    assert isinstance(received.answers[0].reply, Reply)


def test_status_that_is_no_number_is_a_hopeless_result() -> None:
    with pytest.raises(Unserialisable, match="OK"):
        reply_of("x", Processor(status="OK"))
