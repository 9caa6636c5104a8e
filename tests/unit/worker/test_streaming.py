"""Results that come in steps: generators as answers, alone and in batches, with and without an envelope."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import spec_of
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey
from torchserve_lite.ipc.messages import Answer, Call, FailureKind, Load, SentPart
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.handlers import Handler

EntryPoint = Callable[[list[Any], Any], Any]
Told = dict[int, list[Any]]


class Asked:
    """Runs one batch. ``pieces``: what each call was told so far, a last answer in a tuple; calls in ``left`` have no
    client any more. ``signs_of_life``: how often the parent was told nothing but that the handler is at work."""

    def __init__(self, way: str) -> None:
        self.response_timeout = 60.0
        self.signs_of_life = 0
        self.way = way
        self.pieces: Told = {}
        self.left: set[int] = set()
        self.failures: list[str] = []
        self.order: list[int] = []
        self.room: Callable[[int], Any] = lambda index: None

    def hear(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            body = answer.reply.body
            self.order.append(answer.index)
            if answer.reply.failure:
                self.failures.append(answer.reply.failure)
            self.pieces.setdefault(answer.index, []).append((body,) if answer.last else body)

    def emit(self, answers: Sequence[Answer]) -> None:
        self.signs_of_life += not answers
        self.hear(answers)

    def __call__(self, entry_point: EntryPoint, *bodies: bytes, **facts: Any) -> Told:
        spec = spec_of(key=ModelKey("m", "1.0"), handler="h", response_timeout=self.response_timeout)
        load = Load(spec=spec, model_dir=".", max_response_size=1000)
        context = testing.context(manifest={"model": {}}, model_yaml_config={})
        runner = BatchRunner(Handler(entry_point, context), load, lambda stage, row: None)
        calls = [Call(str(n), "predict", (SentPart("body", body),), (), **facts) for n, body in enumerate(bodies)]
        is_left = self.left.__contains__
        if self.way == "in turn":
            with asyncio.Runner() as loop:  # a worker's thread has one that does not run
                asyncio.set_event_loop(loop.get_loop())
                last = runner.predict(calls, self.emit, is_left)
        else:
            last = asyncio.run(runner.predict_concurrently(calls, self.emit, is_left, room=lambda i: self.room(i)))
        self.hear(last)
        return self.pieces


@pytest.fixture(params=["in turn", "concurrently"])
def ask(request: pytest.FixtureRequest) -> Asked:
    return Asked(request.param)


def words(row: Any) -> Iterator[str]:
    yield from bytes(row["body"]).decode().split()


async def awaited_words(row: Any) -> AsyncIterator[str]:
    for word in words(row):
        await asyncio.sleep(0)
        yield word


@pytest.mark.parametrize("steps", [words, awaited_words, lambda row: iter(bytes(row["body"]).decode().split())])
def test_generators_of_a_batch_take_a_step_each_in_turn(ask: Asked, steps: Callable[[Any], Any]) -> None:
    told = ask(lambda rows, context: [steps(row) for row in rows], b"a b c", b"d")
    assert told == {0: [b"a", b"b", b"c", (b"",)], 1: [b"d", (b"",)]}
    assert ask.order[:4] == [0, 1, 0, 1]


def test_value_that_a_generator_returns_is_its_last_piece(ask: Asked) -> None:
    def steps() -> Generator[str, None, dict[str, int]]:
        yield "one"
        return {"n": 2}

    assert ask(lambda rows, context: [steps()], b"") == {0: [b"one", (b'{\n  "n": 2\n}',)]}


def test_results_that_come_at_once_may_stand_beside_generators(ask: Asked) -> None:
    assert ask(lambda rows, context: [words(rows[0]), "whole"], b"a", b"") == {0: [b"a", (b"",)], 1: [(b"whole",)]}


def test_handler_that_is_a_generator_gives_a_piece_for_each_row_at_each_step(ask: Asked) -> None:
    def handle(rows: list[Any], context: Any) -> Iterator[list[Any]]:
        yield ["a", "b"]
        yield [None, "c"]

    assert ask(handle, b"", b"") == {0: [b"a", (b"",)], 1: [b"b", b"c", (b"",)]}


def test_handler_that_is_an_async_generator_does_likewise(ask: Asked) -> None:
    async def handle(rows: list[Any], context: Any) -> AsyncIterator[list[Any]]:
        yield [str(await asyncio.sleep(0, 7))]

    assert ask(handle, b"") == {0: [b"7", (b"",)]}


def test_step_with_too_few_pieces_is_told_as_a_batch_with_too_few_results(ask: Asked) -> None:
    def handle(rows: list[Any], context: Any) -> Iterator[list[Any]]:
        yield ["a"]

    assert ask(handle, b"", b"")[0] == [(b"number of batch response mismatched",)]


def test_generator_that_fails_breaks_its_own_answer_off(ask: Asked) -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise ValueError("planted")

    told = ask(lambda rows, context: [broken(), words(rows[1])], b"", b"x y z")
    assert told == {0: [b"a", (b"Prediction failed",)], 1: [b"x", b"y", b"z", (b"",)]}
    assert ask.failures == [FailureKind.HANDLER]


def test_generator_may_set_headers_before_its_first_piece(ask: Asked) -> None:
    """It runs while the context still shows its request."""
    kinds: list[str] = []
    ask.hear = lambda answers: kinds.extend(one.reply.content_type for one in answers)  # type: ignore[method-assign]

    def handle(rows: list[Any], context: Any) -> list[Any]:
        def steps(row: int) -> Iterator[str]:
            context.set_response_content_type(row, f"text/{context.get_request_id(row)}")
            yield "a"

        return [steps(0), steps(1)]

    ask(handle, b"", b"")
    assert kinds[:2] == ["text/0", "text/1"]


def test_generator_whose_client_has_left_is_closed_before_its_next_step(ask: Asked) -> None:
    closed: list[bool] = []

    def endless() -> Iterator[str]:
        try:
            while True:
                yield "again"
                ask.left.add(0)
        finally:
            closed.append(True)

    assert ask(lambda rows, context: [endless(), words(rows[1])], b"", b"a b c d")[1][-1] == (b"",)
    assert closed == [True]
    assert len(ask.pieces[0]) < 4


def test_helper_raises_when_all_clients_of_the_batch_have_left(ask: Asked) -> None:
    from ts.handler_utils.utils import send_intermediate_predict_response

    steps: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[str]:
        for step in range(10):
            ask.left |= {step} if step < 2 else set()
            steps.append(step)
            send_intermediate_predict_response(["a", "b"], context.request_ids, "", 200, context)
        return ["", ""]

    async def awaited(rows: list[Any], context: Any) -> list[str]:
        return handle(rows, context)

    ask(handle if ask.way == "in turn" else awaited, b"", b"")
    assert steps == [0, 1]


@pytest.mark.parametrize("steps", [words, awaited_words])
def test_generator_waits_for_a_reader_that_is_behind(steps: Callable[[Any], Any]) -> None:
    ask = Asked("concurrently")
    waited: list[int] = []

    async def behind() -> None:
        waited.append(len(ask.pieces.get(0, ())))

    ask.room = lambda index: behind() if len(ask.pieces.get(0, ())) == 1 else None
    assert ask(lambda rows, context: [steps(rows[0])], b"a b c") == {0: [b"a", b"b", b"c", (b"",)]}
    assert waited == [1]


def test_envelope_gets_the_whole_of_what_comes_in_steps(ask: Asked) -> None:
    """Its answer is one document."""
    told = ask(lambda rows, context: [iter(["a", "b"]), iter([1, 2])], b'{"instances": [1, 2]}', envelope="kserve")
    (((body,),),) = told.values()
    assert json.loads(body) == {"predictions": ["ab", [1, 2]]}


def by_helper(pieces: list[Any], last: Any) -> EntryPoint:
    """Sends the pieces to every row."""
    from ts.handler_utils.utils import send_intermediate_predict_response

    def handle(rows: list[Any], context: Any) -> list[Any]:
        for piece in pieces:
            send_intermediate_predict_response([piece] * len(rows), context.request_ids, "", 200, context)
        return [last] * len(rows)

    return handle


@pytest.mark.parametrize(
    ("pieces", "last", "whole"),
    [
        (["a", "b"], "c", "abc"),
        (["a", "b"], None, "ab"),
        ([b"a", b"b"], "", "ab"),
        ([{"n": 1}], {"n": 2}, [{"n": 1}, {"n": 2}]),
        ([1], "", [1]),
        (["a"], 2, ["a", 2]),
    ],
)
def test_envelope_gets_the_whole_of_what_the_helper_sent(ask: Asked, pieces: list[Any], last: Any, whole: Any) -> None:
    told = ask(by_helper(pieces, last), b'{"instances": [1, 2]}', b'{"instances": [3]}', envelope="kserve")
    bodies = [json.loads(body) for ((body,),) in told.values()]
    assert bodies == [{"predictions": [whole, whole]}, {"predictions": [whole]}]


def many_nothings(rows: list[Any], context: Any) -> Iterator[list[Any]]:
    for _ in range(4):
        yield [None] * len(rows)


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(by_helper(["a"] * 4, ""), id="helper"),
        pytest.param(lambda rows, context: [iter(["a"] * 4)], id="steps of a row"),
        pytest.param(lambda rows, context: [iter([None] * 4)], id="steps without a piece"),
        pytest.param(many_nothings, id="steps of the handler"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_parent_hears_of_a_handler_that_takes_steps_of_which_nothing_is_sent(
    ask: Asked, handle: EntryPoint, at_once: bool
) -> None:
    """Else it would take the worker for hung. The response timeout is for a step, as with continuous batching."""
    ask.response_timeout = 60.0 if at_once else 0.0
    ask(handle, b'{"instances": [1]}', envelope="kserve")
    assert (ask.signs_of_life == 0) if at_once else (ask.signs_of_life >= 4)


def test_document_of_gathered_events_is_json(ask: Asked) -> None:
    kinds: list[str] = []
    ask.hear = lambda answers: kinds.extend(one.reply.content_type for one in answers)  # type: ignore[method-assign]

    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.set_response_content_type(0, "text/event-stream")
        return [iter(["data: a\n\n"])]

    ask(handle, b'{"instances": [1]}', envelope="kserve")
    assert kinds == ["application/json"]


def test_each_element_of_a_tensor_has_the_whole_of_its_pieces(ask: Asked) -> None:
    body = b'{"inputs": [{"name": "a", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]}]}'
    (((told,),),) = ask(by_helper(["a", "b"], ""), body, envelope="kservev2").values()
    (output,) = json.loads(told)["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", ["ab", "ab"])


@pytest.mark.parametrize("facts", [{"envelope": "body"}, {"envelope": "kserve", "in_pieces": True}])
def test_pieces_go_out_as_they_come_where_that_is_wanted(ask: Asked, facts: Any) -> None:
    told = ask(by_helper(["a", "b"], "c"), b'{"instances": [1]}', **facts)[0]
    assert told[:2] == [b"a", b"b"]
    assert b"c" in told[2][0]


def test_client_of_an_envelope_is_told_of_a_failure_and_nothing_else(ask: Asked) -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        by_helper(["a"], "")(rows, context)
        raise ValueError("planted")

    assert ask(handle, b'{"instances": [1]}', envelope="kserve") == {0: [(b"Prediction failed",)]}


def one_large_step(rows: list[Any], context: Any) -> Iterator[list[Any]]:
    yield ["x" * 1001] * len(rows)


def refusing(after: int) -> EntryPoint:
    """Gives each row its own text, piece by piece, and refuses the row ``bad`` after so many steps."""

    def handle(rows: list[Any], context: Any) -> Iterator[list[Any]]:
        from ts.utils.util import InvalidRow

        texts = [bytes(row["body"]).decode() if isinstance(row, dict) else row for row in rows]
        for step in range(3):
            if step == after and "bad" in texts:
                raise InvalidRow(texts.index("bad"), "no text")
            yield [text[step] if step or text != "late" else None for text in texts]

    return handle


def test_no_piece_comes_twice_when_a_generator_refuses_a_row_after_its_first_pieces(ask: Asked) -> None:
    """The others were begun again, and their clients had the first pieces twice. Who has none yet may begin again."""
    told = ask(refusing(1), b"abc", b"bad", b"late")
    reason = b"Another request of the batch was refused when a part of this answer had been sent."
    assert told == {0: [b"a", (reason,)], 1: [b"b", (b"no text",)], 2: [b"a", b"t", (b"",)]}


def test_row_that_a_generator_refuses_before_its_first_piece_fails_alone(ask: Asked) -> None:
    assert ask(refusing(0), b"abc", b"bad") == {0: [b"a", b"b", b"c", (b"",)], 1: [(b"no text",)]}


def test_answers_of_one_document_are_whole_when_another_row_is_refused_late(ask: Asked) -> None:
    """Nothing of them had been sent."""
    told = ask(refusing(1), b'{"instances": ["abc"]}', b'{"instances": ["bad"]}', envelope="kserve")
    assert json.loads(told[0][0][0]) == {"predictions": ["abc"]}
    assert told[1] == [(b"no text",)]


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param(by_helper(["x" * 1001], ""), id="helper"),
        pytest.param(lambda rows, context: [iter(["x" * 1001])], id="steps of a row"),
        pytest.param(one_large_step, id="steps of the handler"),
    ],
)
@pytest.mark.parametrize("facts", [{}, {"envelope": "kserve"}])
def test_piece_that_is_too_large_is_told_as_an_answer_that_is(ask: Asked, handle: EntryPoint, facts: Any) -> None:
    """It was told as "Prediction failed", without a cause."""
    ((*_, (reason,)),) = ask(handle, b'{"instances": [1]}', **facts).values()
    assert ask.failures == [FailureKind.TOO_LARGE]
    assert reason == b"A piece of the answer has 1001 bytes, more than max_response_size=1000."


def test_envelope_is_not_given_more_than_an_answer_may_have(ask: Asked) -> None:
    told = ask(lambda rows, context: [iter(lambda: "x" * 100, None)], b'{"instances": [1]}', envelope="kserve")
    assert told == {0: [(b"The answer has more than max_response_size=1000 bytes.",)]}
    assert ask.failures == [FailureKind.TOO_LARGE]
