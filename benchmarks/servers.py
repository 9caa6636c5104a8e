"""Targets as they run: started, asked for a first right answer, measured, and ended with all their processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.load import Failed, Generator, Load
from benchmarks.scenarios import Scenario
from benchmarks.targets import PATIENCE, Command

RETRY = 0.005  # seconds between two tries for the first answer
Figures = dict[str, float]


@dataclass(kw_only=True)
class Target:
    """A process that was started, and what it takes to load it. ``drive`` and ``first_answer`` raise ``Failed``."""

    process: subprocess.Popen[str]
    command: Command
    scenario: Scenario
    folder: Path
    began: float
    answer_bytes: int = 0  # of one right answer, head included
    refusal: str = "nothing"  # the last answer that was no success

    @property
    def pid(self) -> int:
        return self.process.pid

    def first_answer(self) -> float:
        """Seconds from the start to the first right answer, and until all is loaded where that is later."""
        while not self._answered() or not self._ready():
            if self.process.poll() is not None:
                raise Failed(f"It ended with {self.process.returncode}. It said:\n{self.last_words()}")
            if time.monotonic() - self.began > PATIENCE:
                told = f"It gave no right answer within {PATIENCE} s, at last {self.refusal}."
                raise Failed(f"{told} It said:\n{self.last_words()}")
            time.sleep(RETRY)
        return time.monotonic() - self.began

    def _answered(self) -> bool:
        if not self.command.port:
            return self._check(self._read_line().encode())
        connection = http.client.HTTPConnection("127.0.0.1", self.command.port, timeout=PATIENCE)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            headers = {"Content-Type": self.scenario.content_type}
            connection.request("POST", self.command.path, self.scenario.body, headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:  # servers listen before their models are loaded
                self.refusal = f"{response.status} {body[:200]!r}"
                return False
            head = sum(len(f"{name}: {value}\r\n") for name, value in response.getheaders())
            self.answer_bytes = len(f"HTTP/1.1 200 {response.reason}\r\n\r\n") + head + len(body)
            return self._check(body)
        return False

    def _ready(self) -> bool:
        if not self.command.ready:
            return True
        connection = http.client.HTTPConnection("127.0.0.1", self.command.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", self.command.ready)
            response = connection.getresponse()
            self.refusal = f"{response.status} {response.read(200)!r}"
            return response.status == 200

    def _check(self, answer: bytes) -> bool:
        if not same_answer(answer, self.scenario.answer):
            raise Failed(f"It answers {answer[:200]!r} where {self.scenario.answer[:200]!r} is right.")
        return True

    def drive(self, generator: Generator, clients: int, seconds: float) -> Figures:
        """One slot of load: what the clients saw, and the CPU time of the whole tree for each request."""
        before = processes.cpu_seconds(self.pid)
        if self.command.port:
            load = generator.drive(self.command.port, self.command.path, clients, seconds)
        else:
            load = self._loop(seconds)
        spent = processes.cpu_seconds(self.pid) - before
        if self.process.poll() is not None:
            raise Failed(f"It ended with {self.process.returncode} under load. It said:\n{self.last_words()}")
        load.check(self.answer_bytes)
        seen = {name: value for name in ("p50", "p99") if (value := asdict(load)[name]) is not None}
        return {**seen, "rate": load.requests / load.seconds, "cpu_seconds": spent / load.requests}

    def _loop(self, seconds: float) -> Load:
        stdin = self.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no line to read
            stdin.write(f"{seconds}\n")
            stdin.flush()
        return Load(**json.loads(self._read_line()))

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise Failed(f"It ended. It said:\n{self.last_words()}")
        return line.strip()

    @contextlib.contextmanager
    def kept_connections(self, number: int) -> Iterator[None]:
        """So many connections, each of which has had one right answer and is kept."""
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                connection = http.client.HTTPConnection("127.0.0.1", self.command.port, timeout=PATIENCE)
                stack.callback(connection.close)
                connection.request("POST", self.command.path, self.scenario.body)
                response = connection.getresponse()
                if response.status != 200 or not same_answer(response.read(), self.scenario.answer):
                    raise Failed(f"Of {number} connections one was answered with {response.status}.")
                if response.will_close:
                    raise Failed("It does not keep connections.")
            yield

    def scale(self, workers: int) -> float:
        """Asks management for this many workers; seconds until it says they are there."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.command.management_port, timeout=PATIENCE)
        wanted = f"min_worker={workers}&max_worker={workers}&synchronous=true"
        with contextlib.closing(connection):
            connection.request("PUT", f"/models/{self.scenario.model}?{wanted}")
            response = connection.getresponse()
            if response.status != 200:
                raise Failed(f"It would not scale to {workers} workers: {response.status} {response.read()!r}")
        return time.monotonic() - began

    def last_words(self, lines: int = 12) -> str:
        said = (self.folder / "output.log").read_text(errors="replace").splitlines()
        return "\n".join(line[:300] for line in said[-lines:])


def same_answer(answer: bytes, right: bytes) -> bool:
    """Equal, or the same JSON: its layout is each server's own."""
    return answer == right or (parsed(answer) == parsed(right) is not None)


def parsed(answer: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(answer)
    return None


@contextlib.contextmanager
def started(command: Command, scenario: Scenario, folder: Path) -> Iterator[Target]:
    """The process, started and not waited for; it and all its descendants are gone afterwards."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(
            command.arguments,
            cwd=folder,
            env={**environment, **command.environment},
            stdin=subprocess.DEVNULL if command.port else subprocess.PIPE,
            stdout=log if command.port else subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield Target(process=process, command=command, scenario=scenario, folder=folder, began=time.monotonic())
    finally:
        processes.end(process.pid)
        process.communicate()
