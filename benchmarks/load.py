"""Drives wrk and reads what it measured."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scenarios import Scenario

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
    'RESULT {{"requests": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "refused": %d, "broken": %d}}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients saw. Times in seconds; ``refused`` counts answers that are no success."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int
    broken: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class WrongAnswers(Exception):
    """Some requests failed, so the figures would compare unlike things."""


def write_script(scenario: Scenario, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    body = folder / f"{scenario.name}.body"
    body.write_bytes(scenario.body)
    script = folder / f"{scenario.name}.lua"
    script.write_text(SCRIPT.format(body=body, content_type=scenario.content_type))
    return script


def drive(url: str, script: Path, clients: int, seconds: float) -> Load:
    """Loads the server with that many clients, each sending its next request when its last is answered."""
    options = ["-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "--timeout", "30s", "-s", str(script)]
    output = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True).stdout
    load = Load(**json.loads(output.partition("RESULT ")[2]))
    if load.refused or load.broken:
        raise WrongAnswers(f"{url}: {load.refused} answers were no success, {load.broken} requests broke off\n{output}")
    return load
