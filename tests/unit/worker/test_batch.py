"""How a batch meets a handler: a bad request fails alone, a failing handler fails its batch, nobody is mixed up."""

from __future__ import annotations

import asyncio
import io
import json
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.conftest import spec_of
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey, Signature, TensorSpec
from torchserve_lite.core.streams import Buffer
from torchserve_lite.ipc.messages import Answer, Call, FailureKind, Load, Reply, SentPart
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.handlers import Handler

LOAD = Load(spec=spec_of(key=ModelKey("m", "1.0"), handler="h"), model_dir=".")

EntryPoint = Callable[[list[Any], Any], Any]


def runner_of(entry_point: EntryPoint, **facts: Any) -> BatchRunner:
    """``facts`` complete the load message."""
    context = testing.context(manifest={"model": {}}, model_yaml_config={})
    load = msgspec.structs.replace(LOAD, **facts)
    return BatchRunner(Handler(entry_point, context), load, lambda stage, row: None)


def replies_of(runner: BatchRunner, *calls: Call) -> list[Reply]:
    """The one last answer of each call, by index."""
    early: list[Answer] = []
    last = runner.predict(calls, early.extend, lambda index: False)
    answers = sorted([*early, *last], key=lambda answer: answer.index)
    assert [answer.index for answer in answers if answer.last] == list(range(len(calls)))
    return [answer.reply for answer in answers if answer.last]


def body_of(reply: Reply) -> bytes:
    """Of a reply that has not been sent: on the link, its place in the frame stands for a large one."""
    assert not isinstance(reply.body, int)
    return bytes(reply.body)


def fail_on_early(answers: Sequence[Answer]) -> None:
    raise AssertionError("nothing is known before the batch ends")


def nobody_left(index: int) -> bool:
    return False


def call(body: object, name: str = "id", **facts: Any) -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(name, facts.pop("verb", "predict"), (SentPart("body", data),), (), **facts)


def upper(rows: list[Any], context: Any) -> list[Any]:
    return [bytes(row["body"]).upper() for row in rows]


class Body(bytearray):
    """One that can be watched until it is gone."""


def test_bodies_are_free_when_their_batch_has_been_answered() -> None:
    """The context knew the last batch's requests until the next one, so a worker held a batch of bodies too many."""
    body = Body(b"large")
    gone = weakref.ref(body)
    one = Call("id", "predict", (SentPart("body", body),), ())
    del body
    (reply,) = replies_of(runner := runner_of(upper), one)
    assert reply.body == b"LARGE"
    assert gone() is None
    assert runner.handler.context is not None


def test_each_call_gets_its_own_reply_in_order() -> None:
    assert [reply.body for reply in replies_of(runner_of(upper), call(b"a"), call(b"b"))] == [b"A", b"B"]


def test_call_past_its_deadline_never_reaches_the_handler() -> None:
    late, good = replies_of(runner_of(upper), call(b"late", remaining=0.0), call(b"good", remaining=60.0))
    assert late.failure == FailureKind.DEADLINE
    assert good.body == b"GOOD"


def test_handler_is_not_called_when_nothing_is_left() -> None:
    def must_not_run(rows: list[Any], context: Any) -> list[Any]:
        raise AssertionError

    (reply,) = replies_of(runner_of(must_not_run), call(b"late", remaining=-1.0))
    assert reply.failure == FailureKind.DEADLINE


def add_one(rows: list[Any], context: Any) -> list[Any]:
    return [row["data"] + 1 if isinstance(row, dict) else row + 1 for row in rows]


def test_request_that_cannot_be_unpacked_fails_alone() -> None:
    bad, good = replies_of(
        runner_of(add_one), call(b"{", envelope="kserve"), call({"instances": [1, 2]}, envelope="kserve")
    )
    assert bad.failure == FailureKind.REFUSED
    assert b"line 1" in body_of(bad)
    assert json.loads(body_of(good)) == {"predictions": [2, 3]}


def test_requests_with_and_without_envelope_share_a_call_of_the_handler() -> None:
    seen: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(len(rows))
        return list(range(len(rows)))

    replies = replies_of(runner_of(handle), call(b"plain"), call({"instances": [1, 2]}, envelope="kserve"))
    assert [json.loads(body_of(reply)) for reply in replies] == [0, {"predictions": [1, 2]}]
    assert seen == [3]


def test_row_that_the_handler_refuses_fails_its_own_request_only() -> None:
    from ts.utils.util import InvalidRow

    def handle(rows: list[Any], context: Any) -> list[Any]:
        for index, row in enumerate(rows):
            if row == "bad":
                raise InvalidRow(index, "no picture")
        return rows

    replies = replies_of(
        runner_of(handle),
        call({"instances": ["a"]}, envelope="kserve"),
        call({"instances": ["b", "bad"]}, envelope="kserve"),
        call({"instances": ["c"]}, envelope="kserve"),
    )
    assert [reply.failure for reply in replies] == ["", FailureKind.REFUSED, ""]
    assert replies[1].body == b"instance 1: no picture"
    assert json.loads(body_of(replies[2])) == {"predictions": ["c"]}


def test_handlers_failure_fails_the_whole_batch() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        raise ValueError("boom")

    replies = replies_of(runner_of(handle), call(b"a"), call(b"b"))
    assert [(reply.failure, reply.body) for reply in replies] == [("handler", b"Prediction failed")] * 2


def test_answer_beyond_the_limit_is_refused_and_the_others_are_sent() -> None:
    small, large = replies_of(runner_of(upper, max_response_size=3), call(b"abc"), call(b"abcd"))
    assert small.body == b"ABC"
    assert (large.failure, large.body) == ("too_large", b"The answer has 4 bytes, more than max_response_size=3.")


def test_describe_gets_one_empty_row() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        return [{"rows": rows}]

    (reply,) = replies_of(runner_of(handle, spec=spec_of(envelope="kserve")), call(b"", verb="describe"))
    assert json.loads(body_of(reply)) == {"rows": [{}]}


def test_context_speaks_of_each_row() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        for index in range(len(rows)):
            context.set_response_header(index, "X-Row", str(index))
        return [context.get_request_id(index) for index in range(len(rows))]

    replies = replies_of(runner_of(handle), call(b"", "first"), call(b"", "second"))
    assert [(reply.body, reply.headers) for reply in replies] == [
        (b"first", (("X-Row", "0"),)),
        (b"second", (("X-Row", "1"),)),
    ]


def test_pieces_are_sent_to_the_request_they_belong_to() -> None:
    sent: list[tuple[int, Buffer]] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.send(1, "for the second")
        context.send(0, "for the first")
        context.send(0, "for the second, by its name", "b")
        with pytest.raises(ValueError, match="Request c is not being answered"):
            context.send(0, "for somebody else", "c")
        with pytest.raises(ValueError, match="no row 2"):
            context.send(2, "for nobody")
        return ["end"] * len(rows)

    def emit(answers: Sequence[Answer]) -> None:
        sent.extend((answer.index, body_of(answer.reply)) for answer in answers if not answer.last)

    runner_of(handle).predict((call(b"", "a"), call(b"", "b")), emit, nobody_left)
    assert sent == [(1, b"for the second"), (0, b"for the first"), (1, b"for the second, by its name")]


@pytest.mark.parametrize(
    ("message", "body"), [("no customer", b"no customer"), ("\ud800", b"?")], ids=["plain", "no utf-8"]
)
def test_prediction_exception_chooses_status_and_message(message: str, body: bytes) -> None:
    from ts.utils.util import PredictionException

    def handle(rows: list[Any], context: Any) -> list[Any]:
        raise PredictionException(message, 404)

    (reply,) = replies_of(runner_of(handle), call(b""))
    assert (reply.status, reply.body) == (404, body)


async def test_batches_of_a_coroutine_handler_keep_their_own_requests() -> None:
    first_waits = asyncio.Event()

    async def handle(rows: list[Any], context: Any) -> list[Any]:
        if bytes(rows[0]["body"]) == b"1":
            await first_waits.wait()
        else:
            first_waits.set()
        context.set_response_header(0, "X-Id", context.get_request_id(0))
        return [context.get_request_id(0)]

    runner = runner_of(handle)
    both = await asyncio.gather(
        *(
            runner.predict_concurrently((call(name.encode(), name),), fail_on_early, lambda index: False)
            for name in "12"
        )
    )
    assert [(answer.reply.body, answer.reply.headers) for (answer,) in both] == [
        (b"1", (("X-Id", "1"),)),
        (b"2", (("X-Id", "2"),)),
    ]


async def test_coroutine_that_waited_for_a_cancelled_task_fails_its_own_batch() -> None:
    """Its batch's task counted as cancelled itself and ended without an answer; the client waited for the timeout."""

    async def handle(rows: list[Any], context: Any) -> list[Any]:
        raise asyncio.CancelledError

    (answer,) = await runner_of(handle).predict_concurrently((call(b""),), fail_on_early, nobody_left)
    assert (answer.reply.failure, answer.reply.body) == ("handler", b"Prediction failed")


TENSOR = {"name": "a", "shape": [1], "datatype": "INT64", "data": [7]}


def two_tensors(request_id: str) -> Call:
    """A request that must have a call of the handler for itself."""
    return call({"inputs": [TENSOR, {**TENSOR, "name": "b"}]}, request_id, envelope="kservev2")


def test_refused_call_is_answered_before_the_handler_runs() -> None:
    order: list[str] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        order.append("handler")
        return rows

    calls = call(b"{", envelope="kserve"), call({"instances": [1]}, envelope="kserve")
    runner_of(handle).predict(
        calls, lambda answers: order.extend(f"answer {a.index}" for a in answers), lambda i: False
    )
    assert order == ["answer 0", "handler"]


def test_answers_of_a_call_of_the_handler_come_before_the_next_call_begins() -> None:
    order: list[str] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        order.append(context.get_request_id(0))
        return [1] * len(rows)

    calls = two_tensors("first"), two_tensors("second")
    runner_of(handle).predict(
        calls, lambda answers: order.extend(f"answer {a.index}" for a in answers), lambda i: False
    )
    assert order == ["first", "answer 0", "second"]


def test_cancelled_call_does_not_begin_and_the_others_are_answered() -> None:
    seen: list[str] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(context.get_request_id(0))
        return [1] * len(rows)

    calls = two_tensors("1"), two_tensors("2"), two_tensors("3")
    early: list[Answer] = []
    last = runner_of(handle).predict(calls, early.extend, lambda index: index == 1)
    assert seen == ["1", "3"]
    assert [answer.index for answer in [*early, *last]] == [0, 2]


@pytest.mark.parametrize("envelope", ["kservev2", "kserve"])
def test_handler_of_a_worker_sees_the_names_of_its_input_tensors(envelope: str) -> None:
    """They were set by a copy of this code that only tests ran."""
    seen: list[Any] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append((context.input_names, context.input_request_id))
        return [1] * len(rows)

    runner = runner_of(handle)
    replies_of(runner, call({"id": "x", "inputs": [TENSOR]}, envelope=envelope))
    assert seen == [(["a"], "x")]
    assert not hasattr(runner.handler.context, "input_names")


def test_call_whose_time_passes_in_the_queue_of_its_batch_never_reaches_the_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has several inputs, so it has a call of the handler for itself, after the others."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    seen: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(len(rows))
        clock[0] += 10
        return [1] * len(rows)

    two_inputs = {"inputs": [TENSOR, {**TENSOR, "name": "b"}]}
    good, late = replies_of(
        runner_of(handle), call(b"", remaining=5.0), call(two_inputs, envelope="kservev2", remaining=5.0)
    )
    assert (good.failure, late.failure) == ("", FailureKind.DEADLINE)
    assert seen == [1]


def test_piece_beyond_the_limit_fails_where_the_handler_sends_it() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        with pytest.raises(ValueError, match="4 bytes, more than max_response_size=3"):
            context.send(0, b"abcd")
        return ["end"]

    (reply,) = replies_of(runner_of(handle, max_response_size=3), call(b""))
    assert reply.body == b"end"


@pytest.mark.parametrize("envelope", ["kserve", "kservev2", "json"])
@pytest.mark.parametrize(
    "result",
    [
        pytest.param(torch.empty(2, device="meta"), id="tensor without data"),
        pytest.param(np.array([object()]), id="array of objects"),
        pytest.param(np.clongdouble(1), id="complex number"),
        pytest.param(io.BytesIO(b"x"), id="file"),
        pytest.param(torch.float32, id="type of tensors"),
        pytest.param([10**5000], id="number without a text"),
    ],
)
def test_result_that_cannot_be_sent_is_told_as_such_in_every_envelope(envelope: str, result: Any) -> None:
    """The client read that the server's log says why, as if our own code had failed."""
    body = {
        "instances": [1],
        "inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}],
    }
    (reply,) = replies_of(runner_of(lambda rows, context: [result]), call(body, envelope=envelope))
    assert reply.failure in (FailureKind.HANDLER, FailureKind.CODE)
    assert bytes(body_of(reply)).startswith(b"Unsupported model output data type.")


def test_requests_in_all_forms_of_kserve_share_a_call_and_get_their_own_rows_in_their_own_forms() -> None:
    """One with several tensors has a call of its own, since they may belong together."""
    seen: list[list[Any]] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append([row["data"] if isinstance(row, dict) else row for row in rows])
        return [10 * (value[0] if isinstance(value, list) else value) for value in seen[-1]]

    head = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    parts = (SentPart("body", bytearray(head)), SentPart("tensors", bytearray(b"\x05")))
    replies = replies_of(
        runner_of(handle),
        call({"instances": [1, 2]}, "v1", envelope="kserve"),
        Call("binary", "predict", parts, (), envelope="kservev2"),
        two_tensors("two"),
        call({"inputs": [{**TENSOR, "data": [3]}]}, "json", envelope="kservev2"),
    )
    assert seen == [[1, 2, [5], [3]], [[7], [7]]]
    v1, binary, two, inline = [body_of(reply) for reply in replies]
    assert json.loads(v1) == {"predictions": [10, 20]}
    assert binary.endswith((50).to_bytes(8, "little"))
    assert dict(replies[1].headers)["Inference-Header-Content-Length"] == str(len(binary) - 8)
    assert [output["data"] for output in json.loads(two)["outputs"]] == [[70], [70]]
    assert json.loads(inline)["outputs"][0]["data"] == [30]


def of_tensors(request_id: str, *values: int, names: str = "xy") -> Call:
    inputs = [{**TENSOR, "name": name, "data": [value]} for name, value in zip(names, values, strict=True)]
    return call({"inputs": inputs}, request_id, envelope="kservev2")


def data_of(reply: Reply) -> list[Any]:
    return [output["data"] for output in json.loads(body_of(reply))["outputs"]]


def test_requests_of_several_tensors_share_a_call_once_it_is_known_that_each_is_a_row() -> None:
    seen: list[tuple[list[Any], list[str]]] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(([row["data"][0] for row in rows], context.input_names))
        return [10 * value for value in seen[-1][0]]

    runner = runner_of(handle)
    replies_of(runner, of_tensors("first", 1, 2))
    one, two, three = replies_of(runner, of_tensors("a", 3, 4), of_tensors("b", 5, 6), of_tensors("c", 7, names="x"))
    assert seen[1:] == [([3, 4, 5, 6, 7], ["x", "y", "x", "y", "x"])]
    assert [data_of(reply) for reply in (one, two, three)] == [[[30], [40]], [[50], [60]], [[70]]]


def test_tensors_share_a_call_with_requests_of_other_protocols() -> None:
    runner = runner_of(lambda rows, context: [len(rows)] * len(rows))
    v2, plain, v1 = replies_of(
        runner, of_tensors("a", 1, names="x"), call({}), call({"instances": [1]}, envelope="kserve")
    )
    assert (data_of(v2), body_of(plain)) == ([[3]], b"3")
    assert json.loads(body_of(v1)) == {"predictions": [3]}


def test_tensors_of_other_names_may_belong_together() -> None:
    """The handler of a text model takes texts, or a question with its context: it tells them apart by their names."""
    calls: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        calls.append(len(rows))
        return [1] if context.input_names == ["q", "c"] else [1] * len(rows)

    runner = runner_of(handle)
    replies_of(runner, of_tensors("first", 1, 2))
    for _ in range(2):
        replies = replies_of(runner, of_tensors("a", 3, 4, names="qc"), of_tensors("b", 5, 6, names="qc"))
        assert [data_of(reply) for reply in replies] == [[[1]], [[1]]]
    assert calls == [2] * 5


@pytest.mark.parametrize(("declared", "calls"), [("x", [4]), ("xy", [2, 2])])
def test_signature_says_whether_several_tensors_are_a_batch(declared: str, calls: list[int]) -> None:
    seen: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(len(rows))
        return [row["data"] for row in rows]

    inputs = tuple(TensorSpec(name=name, datatype="INT64", shape=(1,)) for name in declared)
    runner = runner_of(handle, spec=spec_of(key=LOAD.spec.key, handler="h", signature=Signature(inputs=inputs)))
    replies = replies_of(runner, of_tensors("a", 1, 2), of_tensors("b", 3, 4))
    assert [data_of(reply) for reply in replies] == [[[1], [2]], [[3], [4]]]
    assert seen == calls


def test_call_that_was_shared_in_vain_is_made_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    """A model of two inputs and two outputs looks like one whose rows have nothing to do with one another."""
    calls: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        calls.append(len(rows))
        first, second = rows
        return [first["data"], second["data"]]

    runner = runner_of(handle)
    replies_of(runner, of_tensors("first", 1, 2))
    for _ in range(2):
        replies = replies_of(runner, of_tensors("a", 3, 4), of_tensors("b", 5, 6))
        assert [data_of(reply) for reply in replies] == [[[3], [4]], [[5], [6]]]
    assert calls == [2, 4, 2, 2, 2, 2]
