"""What is measured: model, payload, batching and clients of each scenario, and which targets take part."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DIGIT = (HERE.parent / "tests" / "data" / "digits" / "2.png").read_bytes()
SENTENCE = b"Shares of the company fell after it said that profit will be lower this quarter as oil prices rise."

SERVERS = ("ours", "torchserve", "torchserve-omp1", "mosec", "litserve")
ECHOES = ("aiohttp", "httptools")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One load that all targets get, or with ``alone`` one start that each makes by itself.

    ``batch_delay`` is the longest wait for a batch to fill, in milliseconds as configuration has it. ``series`` are
    the numbers of clients that are measured one after another; for ``memory``, the numbers of workers. ``v1``: the body
    is KServe's V1 JSON. ``answer`` is what every target must say before it is measured. ``idle``: not the start is
    measured but what so many connections take on which one request has been answered.
    """

    name: str
    title: str
    model: str
    body: bytes
    answer: bytes
    targets: tuple[str, ...]
    series: tuple[int, ...]
    series_name: str = "clients"
    workers: int = 1
    batch_size: int = 1
    batch_delay: int = 20
    v1: bool = False
    peak_memory: bool = False
    alone: bool = False
    idle: bool = False

    @property
    def content_type(self) -> str:
        return "application/json" if self.v1 else "application/octet-stream"


def noop(name: str, batch_size: int, series: tuple[int, ...]) -> Scenario:
    return Scenario(
        name=name,
        title=f"No-op handler, 250-byte body, batch {batch_size}, 1 worker",
        model="noop",
        body=bytes(range(250)),
        answer=b"ok",
        targets=(*SERVERS, *ECHOES),
        series=series,
        batch_size=batch_size,
    )


def echo(name: str, size: str, length: int) -> Scenario:
    body = (bytes(range(256)) * (length // 256 + 1))[:length]
    return Scenario(
        name=name,
        title=f"Echo, {size} body, batch 8, 1 worker",
        model="echo",
        body=body,
        answer=body,
        targets=(*SERVERS, *ECHOES),
        series=(4,),
        batch_size=8,
        batch_delay=1,  # four clients never fill a batch of eight: with more, the wait would be all that is measured
        peak_memory=True,
    )


def mnist(name: str, form: str, body: bytes, answer: bytes, *, v1: bool) -> Scenario:
    return Scenario(
        name=name,
        title=f"MNIST digit as {form}, batch 16, 2 workers",
        model="mnist",
        body=body,
        answer=answer,
        targets=("ours", "ours-affinity", *SERVERS[1:], "loop"),
        series=(32, 128),
        workers=2,
        batch_size=16,
        v1=v1,
    )


def alone(name: str, title: str, model: str, answer: bytes, series: tuple[int, ...] = (1,)) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        model=model,
        body=DIGIT if model == "mnist" else b"0",
        answer=answer,
        targets=("ours", "torchserve", "mosec", "litserve"),
        series=series,
        series_name="workers",
        alone=True,
    )


V1_DIGIT = json.dumps({"instances": [{"data": base64.b64encode(DIGIT).decode()}]}).encode()

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        noop("noop", 32, (1, 32, 128, 1000)),
        noop("noop-single", 1, (1,)),
        echo("echo-250b", "250-byte", 250),
        echo("echo-100k", "100 KB", 100_000),
        echo("echo-1m", "1 MB", 1_000_000),
        echo("echo-10m", "10 MB", 10_000_000),
        mnist("mnist-png", "PNG", DIGIT, b"2", v1=False),
        mnist("mnist-json", "V1 JSON", V1_DIGIT, b'{"predictions": [2]}', v1=True),
        Scenario(
            name="bert",
            title="MiniLM with a classification head, a sentence of 20 words, batch 8, 2 workers",
            model="bert",
            body=SENTENCE,
            answer=b"Business",
            targets=(*SERVERS, "loop"),
            series=(32,),
            workers=2,
            batch_size=8,
        ),
        Scenario(
            name="many-models",
            title="No-op handler, batch 32, 1 worker; 499 more models without workers, or none",
            model="noop",
            body=bytes(range(250)),
            answer=b"ok",
            targets=("ours", "ours-500-models"),
            series=(32,),
            batch_size=32,
        ),
        Scenario(
            name="idle",
            title="Connections that are kept, and idle after one request to the no-op handler",
            model="noop",
            body=b"0",
            answer=b"ok",
            targets=("ours", "torchserve", "mosec"),
            series=(1000,),
            series_name="connections",
            alone=True,
            idle=True,
        ),
        alone("start-noop", "Start-up of the no-op handler", "noop", b"ok"),
        alone("start-mnist", "Start-up of MNIST", "mnist", b"2"),
        alone("memory", "400 MB model whose weights are all read", "large", b"50000000", series=(1, 2, 4)),
    )
}
