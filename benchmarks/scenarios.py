"""What is measured: model, payload, batching and number of clients of each scenario."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DIGIT = HERE.parent / "tests" / "data" / "digits" / "2.png"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """``batch_delay`` is the longest wait for a batch to fill, in milliseconds as both servers' configuration has it;
    the values are those with which TorchServe did best (README.md).

    ``contenders`` are the names of ``servers.CONTENDERS`` (and ``ceiling``) that take part.
    """

    name: str
    title: str
    model: str
    workers: int
    batch_size: int
    batch_delay: int
    clients: int
    body: bytes
    answer: str
    contenders: tuple[str, ...]
    content_type: str = "application/octet-stream"


NOOP_BODY = bytes(range(250))
SERVERS = ("ours", "torchserve", "torchserve-omp1")

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="noop32",
            title="no-op handler, 250-byte body, 32 clients, batch 32, 1 worker",
            model="noop",
            workers=1,
            batch_size=32,
            batch_delay=20,
            clients=32,
            body=NOOP_BODY,
            answer="ok",
            contenders=(*SERVERS, "echo"),
        ),
        Scenario(
            name="noop1",
            title="no-op handler, 250-byte body, 1 client, batch 1, 1 worker",
            model="noop",
            workers=1,
            batch_size=1,
            batch_delay=5,
            clients=1,
            body=NOOP_BODY,
            answer="ok",
            contenders=(*SERVERS, "echo"),
        ),
        Scenario(
            name="mnist",
            title="MNIST digit as PNG, 32 clients, batch 16, 2 workers",
            model="mnist",
            workers=2,
            batch_size=16,
            batch_delay=20,
            clients=32,
            body=DIGIT.read_bytes(),
            answer="2",
            contenders=(*SERVERS, "ceiling"),
        ),
    )
}
