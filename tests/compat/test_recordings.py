"""Archives of every kind answer here as they did when TorchServe 0.12 served them (``recordings.json``).

Where we answer otherwise on purpose, the case in ``cases.py`` says so and why.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .archives import build
from .cases import CASES, SERVERS, Case, Difference
from .exchange import Record, Request, Server, ask, run_case, until
from .record import RECORDINGS, properties

RECORDED: dict[str, dict[str, Record]] = json.loads(RECORDINGS.read_text(encoding="utf-8"))["cases"]

FREE = {"inference": "127.0.0.1:0", "management": "127.0.0.2:0", "metrics": "127.0.0.3:0"}  # equal ones would be shared
GRPC_ON_FREE_PORTS = {"grpc_inference_port": "0", "grpc_management_port": "0"}

ServerFor = Callable[[str], Server]


@contextmanager
def our_server(folder: Path, models: Iterable[str], extra: Mapping[str, str]) -> Iterator[Server]:
    """A server of ours that has loaded the archives of these models, which lie in ``folder / "store"``."""
    config, output = folder / "config.properties", folder / "output.log"
    own = {"model_store": str(folder / "store"), "load_models": "all", "shutdown_linger_seconds": "0"}
    config.write_text(properties(FREE, **GRPC_ON_FREE_PORTS, **own, **extra))
    arguments = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config", str(config)]
    with open(output, "wb") as log:
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or len(listening(output)) == len(FREE))
        server = Server(addresses=listening(output))
        until(lambda: process.poll() is not None or all(ready(server, model) for model in models))
        assert process.poll() is None, output.read_text()
        yield server
    finally:
        process.terminate()
        process.wait()


def listening(output: Path) -> dict[str, str]:
    """Where the server listens, as far as it has told."""
    return dict(re.findall(r"listening: (\w+) on http://(\S+)\n", output.read_text()))


def ready(server: Server, model: str) -> bool:
    describe = Request(label="describe", method="GET", path="/models/{model}", listener="management")
    try:
        answer = ask(server, model, describe)
    except OSError:
        return False
    workers = json.loads(answer["body"])[0]["workers"] if answer["status"] == 200 else []
    return [worker["status"] for worker in workers] == ["READY"]


@pytest.fixture(scope="module")
def server_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFor]:
    """Configuration name -> a running server with all its archives; each is started when first asked for."""
    running: dict[str, Server] = {}

    def start(name: str, stack: ExitStack) -> Server:
        cases = [case for case in CASES if case.server == name]
        folder = tmp_path_factory.mktemp(name)
        (folder / "store").mkdir()
        for case in cases:
            build(case.archive, case.name, folder / "store")
        return stack.enter_context(our_server(folder, [case.name for case in cases], SERVERS[name]))

    with ExitStack() as stack:
        yield lambda name: running.get(name) or running.setdefault(name, start(name, stack))


def expected(case: Case) -> dict[str, Record]:
    """TorchServe's answers, with the case's own differences."""
    wanted = {request.label: completed(RECORDED[case.name][request.label], request) for request in case.requests}
    for difference in case.differs:
        wanted[difference.label] = difference.change(wanted[difference.label])
    return wanted


def completed(record: Record, request: Request) -> Record:
    """TorchServe sends neither a content type nor a reason phrase unless the handler chose one. None of its clients
    breaks when we send them, and proxies want the first (``our_type`` says which)."""
    if "body" not in record:
        return record
    ours = {
        "reason": http.client.responses.get(record["status"]),
        "content_type": None if record["status"] == 204 else request.our_type,
    }
    return {name: value for name, value in (ours | record).items() if value is not None}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_archive_answers_as_on_torchserve(case: Case, server_for: ServerFor) -> None:
    assert run_case(server_for(case.server), case.name, case.steps) == expected(case)


DIFFERENCES = [pytest.param(case, d, id=f"{case.name}-{d.label}") for case in CASES for d in case.differs]


@pytest.mark.parametrize(("case", "difference"), DIFFERENCES)
def test_difference_changes_what_was_recorded(case: Case, difference: Difference) -> None:
    recorded = RECORDED[case.name][difference.label]
    assert difference.change(recorded) != recorded
