"""Continuous batching: requests join a handler that works at others, and leave it when they are finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import spec_of
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey
from torchserve_lite.ipc.messages import Answer, BatchDone, Call, FailureKind, Load, Predict, SentPart
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.continuous import ContinuousBatch
from torchserve_lite.worker.handlers import Handler


class Outgoing:
    """Notes what would leave the worker for one batch."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.failures: list[str] = []
        self.last: bytes | None = None
        self.done = False
        self.signs_of_life = 0
        self.sends = 0

    def send(self, answers: Sequence[Answer]) -> None:
        self.sends += 1
        self.signs_of_life += not answers
        for answer in answers:
            assert isinstance(answer.reply.body, bytes)
            if answer.reply.failure:
                self.failures.append(answer.reply.failure)
            if answer.last:
                assert self.last is None
                self.last = answer.reply.body
            else:
                self.sent.append(answer.reply.body)

    def end(self, answers: Sequence[Answer], done: BatchDone) -> None:
        if answers:
            self.send(answers)
        self.done = True


class Live:
    """A handler and the requests that have joined it."""

    def __init__(self, entry_point: Callable[[list[Any], Any], Any], **facts: Any) -> None:
        load = Load(spec=spec_of(key=ModelKey("m", "1.0"), handler="h", continuous=True, **facts), model_dir=".")
        context = testing.context(manifest={"model": {}}, model_yaml_config={})
        runner = BatchRunner(Handler(entry_point, context), load, lambda stage, row: None)
        self.batch = ContinuousBatch(runner, tuple, self.together)
        self.left: set[str] = set()
        self.written: list[int] = []  # by all that leaves together: how many sent something
        self.outgoing: list[Outgoing] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        before = [one.sends for one in self.outgoing]
        yield
        self.written.append(sum(one.sends - sends for one, sends in zip(self.outgoing, before, strict=True)))

    def join(self, name: str, body: bytes = b"", **facts: Any) -> Outgoing:
        call = Call(name, facts.pop("verb", "predict"), (SentPart("body", body),), (), **facts)
        outgoing: Any = Outgoing()
        self.outgoing.append(outgoing)
        number = int(name.encode().hex(), 16)
        self.batch.join(Predict(number, (call,)), 0.0, outgoing, lambda index: name in self.left)
        told: Outgoing = outgoing
        return told


def spelled(rows: list[Any], context: Any) -> list[Any]:
    """A letter of the body at each step; the last one ends the answer."""
    left = vars(context).setdefault("left", {})
    letters, criteria = [], []
    for index, row in enumerate(rows):
        name = context.get_request_id(index)
        letter, *rest = left.pop(name, None) or list(bytes(row["body"]).decode())
        left |= {name: rest} if rest else {}
        letters.append(letter)
        criteria.append(lambda letter, is_last=not rest: is_last)
    context.stopping_criteria = criteria
    return letters


def test_request_joins_between_two_steps_and_each_leaves_when_it_is_finished() -> None:
    live = Live(spelled)
    first = live.join("a", b"xyz")
    live.batch.step()
    second = live.join("b", b"pq")
    live.batch.step()
    assert (first.sent, second.sent, first.done, second.done) == ([b"x", b"y"], [b"p"], False, False)
    live.batch.step()
    assert (first.last, second.last, first.done, second.done) == (b"z", b"q", True, True)
    assert live.batch.batches == set()


def test_first_piece_may_be_the_last_one() -> None:
    live = Live(spelled)
    only = live.join("a", b"x")
    live.batch.step()
    assert (only.sent, only.last, only.done) == ([], b"x", True)


def test_row_is_whole_at_the_first_step_and_empty_afterwards() -> None:
    seen: list[list[Any]] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append([bytes(row["body"]) if row else row for row in rows])
        context.stopping_criteria = [lambda result: len(seen) > 2] * len(rows)
        return ["x"] * len(rows)

    live = Live(handle)
    live.join("a", b"1")
    live.batch.step()
    live.join("b", b"2")
    live.batch.step()
    assert seen == [[b"1"], [{}, b"2"]]


def test_request_without_a_criterion_is_answered_at_once() -> None:
    live = Live(lambda rows, context: ["whole"] * len(rows))
    only = live.join("a")
    live.batch.step()
    assert (only.last, only.done) == (b"whole", True)


def test_criteria_are_asked_for_anew_at_each_step() -> None:
    """Those of the last step may be of other requests."""

    def handle(rows: list[Any], context: Any) -> list[Any]:
        if context.stopping_criteria is None and rows[0]:
            context.stopping_criteria = [lambda result: False]
        return ["x"]

    live = Live(handle)
    only = live.join("a")
    live.batch.step()
    live.batch.step()
    assert (only.sent, only.last) == ([b"x"], b"x")


def test_none_is_no_piece_and_the_head_of_the_answer_waits() -> None:
    """An answer that is given whole takes several steps, too, and its status is not known at the first."""

    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.stopping_criteria = [(lambda result: False) if rows[0] else (lambda result: None)]
        return [None if rows[0] else {"n": 1}]

    live = Live(handle)
    only = live.join("a")
    live.batch.step()
    assert (only.sent, only.last) == ([], None)
    live.batch.step()
    assert json.loads(only.last or b"") == {"n": 1}


def test_request_whose_client_has_left_is_not_seen_at_the_next_step() -> None:
    live = Live(spelled)
    gone, other = live.join("a", b"xyz"), live.join("b", b"pqr")
    live.batch.step()
    live.left.add("a")
    live.batch.step()
    assert (gone.sent, gone.last, gone.done, other.sent) == ([b"x"], None, True, [b"p", b"q"])


def test_handler_that_fails_fails_those_it_was_called_with_and_no_later_ones() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        if any(row and bytes(row["body"]) == b"bad" for row in rows):
            raise ValueError("planted")
        return spelled(rows, context)

    live = Live(handle)
    both = live.join("a", b"xyz"), live.join("b", b"bad")
    live.batch.step()
    assert [(one.failures, one.done) for one in both] == [([FailureKind.HANDLER], True)] * 2
    later = live.join("c", b"x")
    live.batch.step()
    assert later.last == b"x"


def test_row_that_is_refused_fails_alone() -> None:
    from ts.utils.util import InvalidRow

    def handle(rows: list[Any], context: Any) -> list[Any]:
        for index, row in enumerate(rows):
            if row and bytes(row["body"]) == b"bad":
                raise InvalidRow(index, "no text")
        return spelled(rows, context)

    live = Live(handle)
    good, bad = live.join("a", b"x"), live.join("b", b"bad")
    live.batch.step()
    assert (good.last, bad.last, bad.done) == (b"x", b"no text", True)


def test_pieces_of_a_step_leave_together_and_so_do_the_ends_of_answers() -> None:
    """There was a message for each request at every step, and the parent woke up for each."""
    live = Live(spelled)
    for name in "abc":
        live.join(name, b"xy")
    live.batch.step()
    live.batch.step()
    assert live.written == [3, 0, 0, 3]
    assert sum(one.sends for one in live.outgoing) == sum(live.written)


@pytest.mark.parametrize("criteria", [[], [lambda result: 1 / 0], 7])
def test_criteria_that_cannot_be_used_fail_their_request_and_nothing_hangs(criteria: Any) -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.stopping_criteria = criteria
        return ["x"] * len(rows)

    live = Live(handle)
    only = live.join("a")
    live.batch.step()
    assert (only.failures, only.done) == ([FailureKind.HANDLER], True)


def test_describe_has_a_call_for_itself() -> None:
    sizes: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        sizes.append(len(rows))
        return ["x"] * len(rows)

    live = Live(handle)
    live.join("a"), live.join("b", verb="describe"), live.join("c")
    live.batch.step()
    assert sizes == [2, 1]


def test_envelope_gets_the_pieces_as_one_answer() -> None:
    live = Live(lambda rows, context: spelled([{"body": row.encode()} if row else row for row in rows], context))
    only = live.join("a", b'{"instances": ["xyz"]}', envelope="kserve")
    for _ in "xyz":
        live.batch.step()
    assert (only.sent, json.loads(only.last or b"")) == ([], {"predictions": ["xyz"]})


def test_request_of_several_instances_is_refused_with_the_reason() -> None:
    """The handler tells requests apart by their ids, and two rows would have one."""
    live = Live(spelled)
    only = live.join("a", b'{"instances": ["x", "y"]}', envelope="kserve")
    live.batch.step()
    assert (only.failures, only.done) == ([FailureKind.REFUSED], True)
    assert b"continuousBatching takes one instance a request" in (only.last or b"")


@pytest.mark.parametrize(
    ("timeout", "told"), [pytest.param(0.0, 4, id="long ago"), pytest.param(60.0, 0, id="just now")]
)
def test_parent_is_told_that_a_silent_answer_is_at_work(timeout: float, told: int) -> None:
    """An answer that is given whole may take longer than the response timeout; a step may not."""

    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.stopping_criteria = [lambda result: False]
        return [None]

    live = Live(handle, response_timeout=timeout)
    only = live.join("a")
    for _ in range(4):
        live.batch.step()
    assert (only.signs_of_life, only.sent, only.done) == (told, [], False)
