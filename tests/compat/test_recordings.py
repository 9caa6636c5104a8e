"""Archives of every kind answer here as they did when TorchServe 0.12 served them (``recordings.json``).

Where we answer otherwise on purpose, the case in ``cases.py`` says so and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .archives import build
from .cases import CASES, SERVERS, Case, Difference
from .exchange import Record, Request, Server, run_case, until
from .record import LISTENERS, RECORDINGS, answers, free_port, properties

RECORDED: dict[str, dict[str, Record]] = json.loads(RECORDINGS.read_text(encoding="utf-8"))["cases"]

ServerFor = Callable[[str], Server]


@contextmanager
def our_server(folder: Path, extra: Mapping[str, str]) -> Iterator[Server]:
    """A server of ours that has loaded every archive in ``folder / "store"``."""
    ports = {listener: free_port() for listener in LISTENERS}
    config = folder / "config.properties"
    config.write_text(properties(ports, model_store=str(folder / "store"), load_models="all", **extra))
    arguments = [sys.executable, "-m", "torchserve_lite", "start", "--ts-config", str(config)]
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
    try:
        server = Server(ports=ports)
        until(lambda: answers(server) or process.poll() is not None)
        assert process.poll() is None, (folder / "output.log").read_text()
        yield server
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def server_for(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerFor]:
    """Configuration name -> a running server with all its archives; each is started when first asked for."""
    running: dict[str, Server] = {}

    def start(name: str, stack: ExitStack) -> Server:
        folder = tmp_path_factory.mktemp(name)
        (folder / "store").mkdir()
        for case in CASES:
            if case.server == name:
                build(case.archive, case.name, folder / "store")
        return stack.enter_context(our_server(folder, SERVERS[name]))

    with ExitStack() as stack:
        yield lambda name: running.get(name) or running.setdefault(name, start(name, stack))


def expected(case: Case) -> dict[str, Record]:
    """TorchServe's answers, with the case's own differences."""
    wanted = {request.label: typed(RECORDED[case.name][request.label], request) for request in case.requests}
    for difference in case.differs:
        wanted[difference.label] = wanted[difference.label] | difference.ours
    return wanted


def typed(record: Record, request: Request) -> Record:
    """TorchServe sends no content type unless the handler chose one. No client of it breaks when we send one, and
    proxies want it (``our_type`` says which)."""
    return {"content_type": request.our_type} | record if record.get("body") else record


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_archive_answers_as_on_torchserve(case: Case, server_for: ServerFor) -> None:
    assert run_case(server_for(case.server), case.name, case.steps) == expected(case)


DIFFERENCES = [pytest.param(case, d, id=f"{case.name}-{d.label}") for case in CASES for d in case.differs]


@pytest.mark.parametrize(("case", "difference"), DIFFERENCES)
def test_difference_is_one_and_has_its_reason(case: Case, difference: Difference) -> None:
    recorded = RECORDED[case.name][difference.label]
    assert recorded | difference.ours != recorded
    assert difference.reason
