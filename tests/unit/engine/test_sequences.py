"""Whose turn it is, and how long a sequence lives: the promises of the queue of sequences, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import NewJob, job_maker
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy, RecoveryPolicy, SequenceHeaders, SequencePolicy
from torchserve_lite.core.requests import InferenceResponse, Verb
from torchserve_lite.engine.queues.batches import BatchAggregator
from torchserve_lite.engine.queues.policies import ShareOfClients
from torchserve_lite.engine.queues.sequences import SequenceQueue
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import (
    DeadlineExceeded,
    NoWorkers,
    QueueFull,
    SequenceQueueFull,
    SequenceTimeout,
    TooManySequences,
)
from torchserve_lite.ipc.messages import Answer, Reply, encoded_headers

DONE = InferenceResponse(b"")


class Served:
    """A queue with workers, which take what is due for them when they are told to, and clients."""

    def __init__(self, size: int = 4, delay: float = 0.0, workers: int = 1, **limits: Any) -> None:
        policy = SequencePolicy(**{"max_idle": 60.0, "most": 100, "most_waiting": 100, **limits})
        batch = BatchPolicy(size=size, delay=delay)
        self.queue = SequenceQueue("tiny", size, policy, lambda: ShareOfClients(batch))
        self.queue.workers = workers
        self.slots = [Slot(str(9000 + number), None, Restarts(RecoveryPolicy())) for number in range(workers)]
        for slot in self.slots:
            self.queue.worker_came(slot)
        self._new_job = job_maker()

    def ask(self, sequence: str = "", body: str = "", *, ends: bool = False, **facts: Any) -> Job:
        named = (("TS_Request_Sequence_Id", sequence),) if sequence else ()
        end = (("ts_request_sequence_end", "True"),) if ends else ()
        job = self._new_job((body or sequence).encode(), headers=(*named, *end), **facts)
        self.queue.put(job)
        return job

    def takes(self, worker: int = 0) -> Sequence[Job]:
        """What this worker gets at this moment, when it is idle."""
        slot = self.slots[worker]
        return self.queue.next_batch(slot) if self.queue.due(slot) <= now() else []

    def ends(self, batch: Sequence[Job], *replies: Reply) -> None:
        """The worker answers."""
        self.queue.replied([Answer(index, reply) for index, reply in enumerate(replies)])
        self.queue.finished(batch)
        for job in batch:
            job.succeed(DONE)

    def dies(self, worker: int = 0) -> None:
        self.queue.worker_left(self.slots[worker])

    def refuses(self, sequence: str) -> bool:
        """Whether there is no place for a new sequence of that name. If there is, it stays free."""
        try:
            self.ask(sequence).abandon()
        except TooManySequences:
            return True
        return False


def now() -> float:
    return asyncio.get_running_loop().time()


def bodies(batch: Sequence[Job]) -> list[str]:
    return [bytes(job.request.parts[0].data).decode() for job in batch]


@virtual_time
async def test_batch_has_one_job_of_each_sequence() -> None:
    served = Served()
    for body in ("a1", "a2", "b1", "a3", "c1"):
        served.ask(body[0], body)
    assert bodies(served.takes()) == ["a1", "b1", "c1"]


@virtual_time
async def test_next_job_of_a_sequence_waits_until_the_one_before_has_ended() -> None:
    served = Served()
    for body in ("a1", "a2", "a3"):
        served.ask("a", body)
    batch = served.takes()
    assert served.takes() == []
    served.ends(batch)
    assert bodies(served.takes()) == ["a2"]


@virtual_time
async def test_names_of_sequences_differ_by_case_and_those_of_headers_do_not() -> None:
    served = Served()
    served.ask("a")
    served.ask("A")
    assert bodies(served.takes()) == ["a", "A"]


@virtual_time
async def test_sequences_take_turns() -> None:
    """One whose client sends much does not keep others from theirs."""
    served = Served(size=1)
    for body in ("a1", "a2", "a3", "b1", "b2", "c1"):
        served.ask(body[0], body)
    order = []
    for _ in range(6):
        batch = served.takes()
        order += bodies(batch)
        served.ends(batch)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


@virtual_time
async def test_batch_holds_as_many_sequences_as_it_may() -> None:
    served = Served(size=2)
    for name in "abc":
        served.ask(name)
    assert [bodies(served.takes()), bodies(served.takes())] == [["a", "b"], ["c"]]


@virtual_time
async def test_sequence_stays_with_its_worker() -> None:
    served = Served(workers=2)
    served.ask("a")
    served.ends(served.takes(1))
    served.ask("a")
    assert served.takes(0) == []
    assert len(served.takes(1)) == 1


@virtual_time
async def test_idle_workers_share_new_sequences() -> None:
    served = Served(workers=2)
    for name in "abcd":
        served.ask(name)
    assert [bodies(served.takes(0)), bodies(served.takes(1))] == [["a", "b"], ["c", "d"]]


@virtual_time
async def test_new_sequence_goes_to_the_idle_worker_that_has_the_fewest() -> None:
    served = Served(workers=2)
    served.ask("a")
    served.ends(served.takes(0))
    served.ask("b")
    assert served.takes(0) == []
    assert bodies(served.takes(1)) == ["b"]


@virtual_time
async def test_new_sequence_does_not_wait_for_a_busy_worker() -> None:
    """Though that has fewer."""
    served = Served(workers=2)
    served.ask("a")
    served.ends(served.takes(1))
    served.ask("b")
    assert bodies(served.takes(0)) == ["b"]
    for name in "cd":
        served.ask(name)
    assert bodies(served.takes(1)) == ["c", "d"]


@virtual_time
async def test_sequences_that_have_ended_do_not_count_when_workers_are_compared() -> None:
    served = Served(workers=2)
    served.ask("a", ends=True)
    served.ends(served.takes(0))
    served.ask("b")
    served.ends(served.takes(1))
    served.ask("c")
    assert served.takes(1) == []
    assert bodies(served.takes(0)) == ["c"]


@virtual_time
async def test_sequences_of_a_worker_that_is_gone_go_on_with_others(caplog: pytest.LogCaptureFixture) -> None:
    served = Served(size=1, workers=2)
    served.dies(1)
    for name in "ab":
        served.ask(name)
        served.ends(served.takes(0))
    served.queue.worker_came(served.slots[1])
    for body in ("a1", "a2", "b1"):
        served.ask(body[0], body)
    batch = served.takes(0)
    with caplog.at_level(logging.WARNING):
        served.dies(0)
    assert "Worker 9000 of model tiny has gone, and with it what its handler kept of its sequences (2)" in caplog.text
    served.ends(served.takes(1))
    assert served.takes(1) == []  # it is not known yet what became of the first job of a
    served.ends(batch)
    assert bodies(served.takes(1)) == ["a2"]


@virtual_time
async def test_jobs_that_are_put_back_are_the_next_ones_of_their_sequences() -> None:
    served = Served(workers=2)
    for body in ("a1", "a2", "b1"):
        served.ask(body[0], body)
    batch = served.takes(0)
    served.dies(0)
    served.queue.finished(batch)
    served.queue.put_back(batch)
    assert (len(served.queue), served.queue.running) == (3, 0)
    batch = served.takes(1)
    assert sorted(bodies(batch)) == ["a1", "b1"]
    served.ends(batch)
    assert bodies(served.takes(1)) == ["a2"]


@virtual_time
async def test_request_without_a_sequence_begins_one_and_its_handler_is_told_the_name() -> None:
    served = Served(headers=SequenceHeaders(id="X-Session", start="X-Begins"))
    job = job_maker()(headers=(("Host", "h"),), encoded_headers=encoded_headers((("Host", "h"),)))
    served.queue.put(job)
    host, (id_header, name), start = job.request.headers
    assert (host, id_header, start) == (("Host", "h"), "X-Session", ("X-Begins", "true"))
    assert name.startswith("ts-seq-")
    assert job.request.encoded_headers == b""  # which would stand for the headers
    served.ends(served.takes())
    again = job_maker()(headers=(("x-session", name),))
    served.queue.put(again)
    assert again.request.headers == (("x-session", name),)


@virtual_time
async def test_name_that_a_handler_is_told_is_the_one_of_its_queue() -> None:
    """It finds a header that comes twice as one, with both values."""
    served = Served()
    job = job_maker()(headers=(("ts_request_sequence_id", ""), ("TS_REQUEST_SEQUENCE_START", "no")))
    served.queue.put(job)
    (id_header, name), start = job.request.headers
    assert (id_header, start) == ("ts_request_sequence_id", ("ts_request_sequence_start", "true"))
    assert name in served.queue._sequences
    served.queue.put(job_maker()(headers=(("ts_request_sequence_id", "a"), ("Ts_Request_Sequence_Id", "b"))))
    assert "a, b" in served.queue._sequences


@virtual_time
async def test_there_are_as_many_sequences_as_may_be() -> None:
    served = Served(most=2)
    served.ask("a")
    served.ends([*served.takes()])
    served.ask("b")
    for name in ("c", ""):
        with pytest.raises(TooManySequences, match=r'Model "tiny" .* \(maxNumSequence: 2\)'):
            served.ask(name)
    served.ask("a")


@virtual_time
async def test_as_many_jobs_of_a_sequence_wait_as_may() -> None:
    """The one that runs, or is the next to run, does not count, so that it makes no difference when it is taken."""
    served = Served(most_waiting=2)
    for body in ("a1", "a2", "a3"):
        served.ask("a", body)
    with pytest.raises(SequenceQueueFull, match=r'sequence "a" of model "tiny" .*maxSequenceJobQueueSize: 2'):
        served.ask("a")
    served.takes()
    with pytest.raises(SequenceQueueFull):
        served.ask("a")
    served.ask("b")


@virtual_time
async def test_sequence_ends_when_it_has_been_idle_for_too_long() -> None:
    served = Served(workers=2, most=1, max_idle=10)
    served.ask("a")
    served.ends(served.takes())
    await asyncio.sleep(6)
    served.ask("a")
    await asyncio.sleep(20)  # it waits
    assert served.takes(1) == []
    batch = served.takes()
    await asyncio.sleep(20)  # it runs
    assert served.refuses("b")
    served.ends(batch)
    await asyncio.sleep(9.9)
    assert served.refuses("b")
    await asyncio.sleep(0.2)
    assert not served.refuses("b")


@virtual_time
async def test_sequence_ends_when_it_has_taken_too_long_as_a_whole() -> None:
    served = Served(most=1, max_idle=10, timeout=30)
    for _ in range(5):
        served.ask("a")
        served.ends(served.takes())
        await asyncio.sleep(5.9)
    assert served.refuses("b")
    await asyncio.sleep(0.6)
    assert not served.refuses("b")


@virtual_time
async def test_time_limits_of_a_sequence_that_has_ended_are_not_those_of_the_next_of_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served(most=1, max_idle=10, timeout=12)
    served.ask("a")
    served.ends(served.takes())
    await asyncio.sleep(9)
    served.ask("a", ends=True)
    served.ends(served.takes())
    served.ask("a")
    served.ends(served.takes())
    await asyncio.sleep(9)
    assert served.refuses("b")
    assert not caplog.records  # of callbacks that failed


@virtual_time
async def test_jobs_that_wait_when_the_time_of_their_sequence_is_over_are_told_so() -> None:
    served = Served(most=1, timeout=30)
    running = served.ask("a")
    batch = served.takes()
    waiting = served.ask("a")
    await asyncio.sleep(31)
    with pytest.raises(SequenceTimeout, match=r'Sequence "a" of model "tiny" .* sequenceTimeoutMSec: 30000'):
        await waiting.answer
    assert served.refuses("b")
    served.ends(batch)
    assert not served.refuses("b")
    assert (await running.answer) is DONE


@virtual_time
async def test_sequence_ends_with_the_request_that_says_so() -> None:
    served = Served(most=1)
    served.ask("a", ends=True)
    batch = served.takes()
    assert served.refuses("b")
    served.ends(batch)
    assert not served.refuses("b")


@virtual_time
async def test_what_follows_the_end_of_a_sequence_begins_the_next_one_of_its_name() -> None:
    served = Served(workers=2, most=1)
    served.ask("a", ends=True)
    served.ask("a", "next")
    served.ends(served.takes(0))
    assert bodies(served.takes(1)) == ["next"]


@pytest.mark.parametrize(
    ("value", "free"),
    [("a", True), ("other; a", True), ("a;", True), ("other", False), ("true", False)],
)
@virtual_time
async def test_sequences_end_that_an_answer_names(value: str, free: bool) -> None:
    served = Served(most=1)
    served.ask("a")
    served.ends(served.takes(), Reply(b"", headers=(("TS_request_sequence_END", value),)))
    assert served.refuses("b") is not free


@virtual_time
async def test_answer_may_end_sequences_that_are_idle_and_those_that_run() -> None:
    served = Served(size=1, most=3, workers=2)
    ending = Reply(b"", headers=(("ts_request_sequence_end", "a;b"),))
    served.ask("a")
    served.ends(served.takes(0))
    served.ask("b")
    running = served.takes(1)
    served.ask("c")
    served.ends(served.takes(0), ending)
    served.ask("d")  # instead of a
    assert served.refuses("e")
    served.ends(running)
    assert not served.refuses("e")


@pytest.mark.parametrize("wanted", [True, False], ids=["deadline", "client gone"])
@virtual_time
async def test_sequence_of_which_no_worker_knows_holds_no_place(wanted: bool) -> None:
    served = Served(most=1)
    job = served.ask("a", within=2)
    if wanted:
        await asyncio.sleep(3)
        assert served.takes() == []
        assert isinstance(job.answer.exception(), DeadlineExceeded)
    else:
        job.abandon()
    assert not served.refuses("b")


@virtual_time
async def test_abandoned_job_leaves_the_others_of_its_sequence_in_order() -> None:
    served = Served()
    jobs = [served.ask("a", f"a{number}") for number in range(3)]
    jobs[1].abandon()
    served.ends(served.takes())
    assert bodies(served.takes()) == ["a2"]
    assert len(served.queue) == 0


@pytest.mark.parametrize("verb", [Verb.EXPLAIN, Verb.DESCRIBE])
@virtual_time
async def test_explanation_runs_alone(verb: Verb) -> None:
    served = Served(delay=60)
    for name in "abc":
        served.ask(name, verb=verb if name == "b" else Verb.PREDICT)
    batches = [served.takes() for _ in range(3)]
    assert [bodies(batch) for batch in batches] == [["a"], ["b"], ["c"]]


@virtual_time
async def test_explanation_keeps_its_place_in_its_sequence() -> None:
    served = Served()
    served.ask("a", "a1")
    served.ask("a", "explain", verb=Verb.EXPLAIN)
    served.ends(served.takes())
    assert bodies(served.takes()) == ["explain"]


@virtual_time
async def test_description_belongs_to_no_sequence() -> None:
    served = Served(most=1, most_waiting=1)
    served.ask("a")
    served.ask(verb=Verb.DESCRIBE)
    with pytest.raises(QueueFull):
        served.ask(verb=Verb.DESCRIBE)
    assert bodies(served.takes()) == ["a"]
    described = served.takes()
    assert described[0].request.headers == ()
    served.ends(described)
    assert (len(served.queue), served.queue.running) == (0, 1)


@virtual_time
async def test_worker_waits_for_the_clients_of_its_own_sequences_alone() -> None:
    served = Served(delay=60, workers=2)
    for name in "abc":
        served.ask(name)
    served.ends(served.takes(0))  # a and b
    served.ends(served.takes(1))  # c
    served.ask("c")
    assert len(served.takes(1)) == 1
    served.ask("a")
    assert served.queue.due(served.slots[0]) == now() + 60
    served.ask("b")
    assert bodies(served.takes(0)) == ["a", "b"]


@virtual_time
async def test_jobs_that_fail_all_leave_no_sequence_busy() -> None:
    served = Served(most=2)
    served.ask("a")
    batch = served.takes()
    waiting = [served.ask("a"), served.ask("b")]
    served.queue.fail_all(NoWorkers("tiny"))
    assert [type(job.answer.exception()) for job in waiting] == [NoWorkers] * 2
    assert batch[0].is_open
    served.ends(batch)
    served.ask("a")
    assert len(served.takes()) == 1


@pytest.mark.parametrize("busy", [True, False])
@virtual_time
async def test_sequences_end_with_the_last_worker_that_is_wanted(busy: bool) -> None:
    served = Served(most=1)
    served.ask("a")
    batch = served.takes()
    if not busy:
        served.ends(batch)
    served.queue.workers = 0
    served.dies()
    if busy:
        served.ends(batch)
    assert not served.refuses("b")


@virtual_time
async def test_sequence_that_moves_goes_on_when_what_runs_of_it_has_ended() -> None:
    """An update must not have the next request overtake the one that an old worker still runs."""
    old, new = Served(), Served()
    moves = itertools.count(1)
    moved = 0

    def note() -> None:
        nonlocal moved
        moved = next(moves)

    for body in ("a1", "a2", "b1", "b2"):
        old.ask(body[0], body)
    batch = old.takes()
    old.queue.move_to(new.queue, note)
    new.ask("a", "a3")
    assert (len(old.queue), len(new.queue), new.takes(), moved) == (0, 3, [], 1)
    old.ends(batch)
    assert moved == 3
    batch = new.takes()
    assert bodies(batch) == ["a2", "b2"]
    new.ends(batch)
    assert bodies(new.takes()) == ["a3"]


@virtual_time
async def test_jobs_move_to_a_queue_of_another_kind_and_back(new_job: NewJob) -> None:
    served = Served()
    plain = BatchAggregator("tiny", 4, 3, ShareOfClients(BatchPolicy(size=4)))
    jobs = [served.ask("a"), served.ask("a"), served.ask(verb=Verb.DESCRIBE), served.ask("b")]
    served.queue.move_to(plain, lambda: None)
    failed = [job for job in jobs if not job.is_open]
    assert [type(job.answer.exception()) for job in failed] == [QueueFull]
    plain.move_to(served.queue, lambda: None)
    assert (len(plain), len(served.queue)) == (0, 3)
    assert bodies(served.takes())[0] == "a"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["a", "b", "c", ""]), st.booleans(), st.none() | st.integers(1, 5)),
        st.tuples(st.just("explain"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("describe")),
        st.tuples(st.just("pass"), st.integers(0, 4)),
        st.tuples(st.just("abandon"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.integers(0, 1)),
        st.tuples(st.just("end"), st.integers(0, 3), st.sampled_from(["", "a", "a;b", "c"])),
        st.tuples(st.just("die"), st.integers(0, 1), st.booleans()),
    ),
    max_size=60,
)


class Life(Served):
    """Workers that take what is due and answer it, or die; and clients that come and go."""

    def __init__(self, size: int, delay: float, timeout: float | None) -> None:
        super().__init__(size, delay, workers=2, most=3, most_waiting=2, max_idle=3.0, timeout=timeout)
        self.jobs: list[Job] = []
        self.running: list[tuple[int, Sequence[Job]]] = []
        self.answered: list[Job] = []

    async def step(self, kind: str, *what: Any) -> None:
        match kind, what:
            case "ask", (sequence, ends, within):
                self.try_to_ask(sequence, ends=ends, within=within)
            case "explain", (sequence,):
                self.try_to_ask(sequence, verb=Verb.EXPLAIN)
            case "describe", ():
                self.try_to_ask(verb=Verb.DESCRIBE)
            case "pass", (seconds,):
                await asyncio.sleep(seconds)
            case "abandon", (index,) if self.jobs:
                self.jobs[index % len(self.jobs)].abandon()
            case "take", (worker,):
                self.take(worker)
            case "end", (index, names) if self.running:
                _, batch = self.running.pop(index % len(self.running))
                self.ends(batch, Reply(b"", headers=(("ts_request_sequence_end", names),)))
                self.answered += batch
            case "die", (worker, never_began):
                self.die(worker, never_began)

    def try_to_ask(self, sequence: str = "", **facts: Any) -> None:
        try:
            self.jobs.append(self.ask(sequence, **facts))
        except (TooManySequences, SequenceQueueFull, QueueFull):
            pass

    def take(self, worker: int) -> None:
        """As a pool: a worker that runs a batch is not asked for."""
        if any(busy == worker for busy, _ in self.running):
            return
        if batch := self.takes(worker):
            assert all(job.deadline is None or now() < job.deadline for job in batch)
            assert len(batch) <= self.queue.batch_size
            assert len(batch) == 1 or all(job.batchable for job in batch)
            self.running.append((worker, batch))
        names = [name_of(job) for _, batch in self.running for job in batch if job.request.verb is not Verb.DESCRIBE]
        assert len(set(names)) == len(names)

    def die(self, worker: int, never_began: bool) -> None:
        self.dies(worker)
        for busy, batch in list(self.running):
            if busy == worker:
                self.running.remove((busy, batch))
                self.queue.finished(batch)
                if never_began:
                    self.queue.put_back([job for job in batch if job.wanted])
                else:
                    for job in batch:
                        job.fail(NoWorkers("tiny"))
        self.queue.worker_came(self.slots[worker])

    async def end(self) -> None:
        while self.running or len(self.queue):
            for worker in (0, 1):
                self.take(worker)
            if self.running:
                _, batch = self.running.pop(0)
                self.ends(batch)
                self.answered += batch
            elif len(self.queue):
                due = min(self.queue.due(slot) for slot in self.slots)
                await asyncio.sleep(max(0.0, due - now()))


def name_of(job: Job) -> str:
    return {name.lower(): value for name, value in job.request.headers}["ts_request_sequence_id"]


@given(
    steps=STEPS, size=st.integers(1, 3), delay=st.sampled_from([0.0, 0.5, 2.0]), timeout=st.sampled_from([None, 4.0])
)
@virtual_time
async def test_every_job_is_answered_once_and_in_the_order_of_its_sequence(
    steps: list[tuple[Any, ...]], size: int, delay: float, timeout: float | None
) -> None:
    life = Life(size, delay, timeout)
    for step in steps:
        await life.step(*step)
    await life.end()
    assert all(not job.is_open for job in life.jobs)
    assert len(set(life.answered)) == len(life.answered)
    for name in "abc":
        answered = [life.jobs.index(job) for job in life.answered if named(job, name)]
        assert answered == sorted(answered)
    await asyncio.sleep(10)
    assert (len(life.queue), life.queue.running, life.queue._sequences) == (0, 0, {})


def named(job: Job, name: str) -> bool:
    return job.request.verb is not Verb.DESCRIBE and name_of(job) == name
