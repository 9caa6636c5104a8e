"""Sequences with real workers, whose handler remembers what each of them has sent."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.serving import Served, served
from tests.gate import Gate
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy, SequencePolicy
from torchserve_lite.core.requests import InferenceRequest, Part, Verb
from torchserve_lite.errors import InvalidInput, NoIdleWorker, TooManySequences, WorkerKilled


class Sequences:
    def __init__(self, model: Served) -> None:
        self.model = model

    def submit(self, sequence: str, word: str, **headers: str) -> Job:
        """``headers``: without their ``ts_request_sequence_``."""
        named = {"id": sequence, **headers} if sequence else headers
        pairs = tuple((f"ts_request_sequence_{name}", value) for name, value in named.items())
        return self.model.submit(word.encode(), headers=pairs)

    def has_place_for(self, sequence: str) -> bool:
        """It stays free."""
        try:
            self.submit(sequence, "word").abandon()
        except TooManySequences:
            return False
        return True

    async def ask(self, sequence: str, word: str, **headers: str) -> tuple[int, str]:
        return await answer_to(self.submit(sequence, word, **headers))


async def answer_to(job: Job) -> tuple[int, str]:
    """The process that answered, and the words that it has of this sequence."""
    pid, _, words = bytes((await job.answer).body).decode().partition(" ")
    return int(pid), words


@asynccontextmanager
async def sequences(
    workers: int = 2, size: int = 4, launcher: str = "forked", **limits: Any
) -> AsyncIterator[Sequences]:
    policy = SequencePolicy(**{"max_idle": 60.0, "most": 100, "most_waiting": 100, **limits})
    batch = BatchPolicy(size=size, delay=0.01)
    async with served(launcher, "remembering", workers=workers, sequences=policy, batch=batch) as model:
        yield Sequences(model)


@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
async def test_each_sequence_is_answered_in_order_by_one_worker(launcher: str) -> None:
    async with sequences(launcher=launcher) as model:
        jobs = {name: [model.submit(name, f"{name}{number}") for number in range(4)] for name in "abcd"}
        processes = set()
        for name, asked in jobs.items():
            answers = [await answer_to(job) for job in asked]
            words = [f"{name}{number}" for number in range(4)]
            assert [told for _, told in answers] == [" ".join(words[: count + 1]) for count in range(4)]
            assert len({pid for pid, _ in answers}) == 1
            processes.add(answers[0][0])
        assert processes == set(model.model.pids)


async def test_sequences_of_other_workers_do_not_wait(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with sequences() as model:
        first = model.submit("a", f"wait {gate.path}")
        await gate.reached()
        waiting = model.submit("a", "next")
        assert [words for _, words in [await model.ask("b", "one"), await model.ask("b", "two")]] == ["one", "one two"]
        assert not waiting.answer.done()
        gate.open()
        pid, words = await answer_to(first)
        assert words == "wait"
        assert await answer_to(waiting) == (pid, "wait next")


async def test_death_of_its_worker_costs_a_sequence_what_was_kept_and_no_other_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(tmp_path)
    async with sequences() as model:
        other, _ = await model.ask("b", "one")
        running = model.submit("a", f"wait {gate.path}")
        await gate.reached()
        waiting = model.submit("a", "next")
        (pid,) = set(model.model.pids) - {other}
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerKilled):
            await running.answer
        assert await answer_to(waiting) == (other, "next")
        assert await model.ask("b", "two") == (other, "one two")
        assert "what its handler kept of its sequences (1)" in caplog.text
        gate.open()
        while model.model.engine.status(model.model.spec.key).ready_workers < 2:
            await asyncio.to_thread(os.sched_yield)


async def test_request_that_fails_harms_no_other() -> None:
    async with sequences(workers=1) as model:
        await model.ask("a", "one")
        bad, good, after = model.submit("a", "refuse"), model.submit("b", "one"), model.submit("a", "two")
        with pytest.raises(InvalidInput, match="no such word"):
            await bad.answer
        assert [(await answer_to(job))[1] for job in (good, after)] == ["one", "one two"]


@pytest.mark.parametrize(("word", "headers"), [("last", {"end": "true"}), ("end", {})], ids=["request", "answer"])
async def test_place_of_a_sequence_that_has_ended_is_free(word: str, headers: dict[str, str]) -> None:
    async with sequences(workers=1, most=1) as model:
        await model.ask("a", "one")
        assert not model.has_place_for("b")
        await model.ask("a", word, **headers)
        assert (await model.ask("b", "one"))[1] == "one"


async def test_place_of_a_sequence_that_is_idle_for_too_long_is_free() -> None:
    async with sequences(workers=1, most=1, max_idle=0.05) as model, asyncio.timeout(60):
        await model.ask("a", "one")
        while not model.has_place_for("b"):
            await asyncio.to_thread(os.sched_yield)


async def test_handler_is_told_the_name_of_a_sequence_that_had_none() -> None:
    async with sequences(workers=1) as model:
        response = await model.submit("", "one").answer
        ((header, name),) = response.headers
        assert (header, name[:7]) == ("ts_request_sequence_id", "ts-seq-")
        assert (await model.ask(name, "two"))[1] == "one two"


async def test_update_keeps_the_order_of_a_sequence_and_its_sample_request_no_place(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with sequences(workers=1, most=1) as model:
        first = model.submit("a", f"wait {gate.path}")
        await gate.reached()
        waiting = model.submit("a", "next")
        old, engine = model.model.pids[0], model.model.engine
        sample = InferenceRequest("sample", "remembering", None, Verb.PREDICT, (Part("body", b"sample"),))
        update = asyncio.create_task(engine.load(replace(model.model.spec, generation=1), 1, warm_up=sample))
        async with asyncio.timeout(60):
            while model.model.pids == [old]:
                await asyncio.to_thread(os.sched_yield)
        new = model.model.pids[0]
        last = model.submit("a", "last", end="true")
        assert not waiting.answer.done()
        gate.open()
        assert [await answer_to(job) for job in (first, waiting, last)] == [
            (old, "wait"),
            (new, "next"),
            (new, "next last"),
        ]
        assert await model.ask("b", "one") == (new, "one")
        await update


async def test_request_that_no_worker_could_run_now_is_refused_where_jobs_need_a_ticket(tmp_path: Path) -> None:
    """Batches of several fill, which they do not in TorchServe."""
    gate = Gate(tmp_path)
    async with served("forked", "gated", job_tickets=True, batch=BatchPolicy(size=2, delay=0.01)) as model:
        first, second = model.submit(gate.body), model.submit(b"second")
        with pytest.raises(NoIdleWorker, match="useJobTicket"):
            model.submit(b"third")
        await gate.reached()
        with pytest.raises(NoIdleWorker, match="useJobTicket"):
            model.submit(b"third")
        gate.open()
        assert (await second.answer).body == b"done"
        assert (await first.answer).body == b"begun"
        assert await model.ask(b"go") == b"done"
