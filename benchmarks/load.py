"""Puts load on a server, with wrk or with our own client, and refuses figures of a run in which a request failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scenarios import Scenario

# wrk runs ``done`` once at the end; latencies are in microseconds there.
SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "{content_type}"
file:close()

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, ' ..
    '"refused": %d, "broken": %d, "bytes": %.0f}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout, summary.bytes))
end
"""
SLACK = 16  # bytes by which the heads of two equal answers may differ, such as in the digits of a time
PATIENCE = 30  # seconds for an answer


class Failed(Exception):
    """A target cannot be measured; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients saw. Times in seconds; ``refused`` counts answers that are no success, ``short`` those with too
    short a body, which wrk does not tell: there the mean of ``bytes``, heads included, has to do."""

    requests: int
    seconds: float
    p50: float | None = None
    p99: float | None = None
    refused: int = 0
    broken: int = 0
    short: int = 0
    bytes: int = 0

    def check(self, answer_bytes: int = 0) -> None:
        """``answer_bytes`` is what one right answer has, head included."""
        if not self.requests:
            raise Failed(f"No request was answered in {self.seconds:.1f} s.")
        if self.refused or self.broken or self.short:
            counts = f"{self.refused} were no success, {self.short} were too short, {self.broken} requests broke off"
            raise Failed(f"Of {self.requests} answers {counts}.")
        if answer_bytes - self.bytes / self.requests > SLACK:
            mean = self.bytes / self.requests
            raise Failed(f"The mean of {self.requests} answers is {mean:.0f} bytes; a right one has {answer_bytes}.")


def load_generator(wanted: str, seconds: float) -> str:
    """``wrk`` or ``own``; wrk where it is installed, if none is asked for."""
    generator = wanted if wanted != "auto" else "wrk" if shutil.which("wrk") else "own"
    if generator == "wrk" and seconds != int(seconds):
        raise SystemExit("wrk takes whole seconds: give --seconds 1 or more, or --load-generator own.")
    return generator


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Loads servers with one scenario's requests; what it needs lies in ``folder``."""

    name: str
    scenario: Scenario
    folder: Path

    def drive(self, port: int, path: str, clients: int, seconds: float) -> Load:
        body = self.folder / "request.body"
        if not body.exists():
            body.write_bytes(self.scenario.body)
        command = self._wrk(body, port, path, clients) if self.name == "wrk" else self._own(body, port, path, clients)
        whole = f"{seconds:.0f}s" if self.name == "wrk" else str(seconds)
        arguments = [*map(str, command), whole]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds + 3 * PATIENCE, check=False)
        told = ended.stdout.rpartition("RESULT ")[2]
        if ended.returncode or not told.startswith("{"):
            raise Failed(f"The load generator ended with {ended.returncode}: {(ended.stderr or ended.stdout)[-500:]}")
        return Load(**json.loads(told))

    def _wrk(self, body: Path, port: int, path: str, clients: int) -> list[object]:
        script = self.folder / "request.lua"
        script.write_text(SCRIPT.format(body=body, content_type=self.scenario.content_type))
        url = f"http://127.0.0.1:{port}{path}"
        return ["wrk", "-t1", f"-c{clients}", "--latency", "--timeout", f"{PATIENCE}s", "-s", script, url, "-d"]

    def _own(self, body: Path, port: int, path: str, clients: int) -> list[object]:
        client = [sys.executable, Path(__file__).parent / "client.py", port, path, body, "--clients", clients]
        # Of JSON the layout is a server's own, so two right answers may differ in length.
        length = 0 if self.scenario.v1 else len(self.scenario.answer)
        return [*client, "--content-type", self.scenario.content_type, "--answer-length", length, "--seconds"]
