"""A running server at a glance."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.operators.conftest import Command, FakeServer, described


def _worker(state: str) -> dict[str, object]:
    status = "READY" if state == "READY" else "UNLOADING"
    return {**described()["workers"][0], "status": status, "state": state, "lastFailure": "out of memory"}


async def test_server_models_and_workers_are_shown(server: FakeServer, command: Command) -> None:
    server.serves([described("mnist"), described("mnist", "2.0")], [described("words")])
    outcome = await command("status", "--url", server.url)
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert lines[0] == f"server at {server.url}: healthy"
    assert [line.split()[:3] for line in lines if line.startswith("mnist")] == [
        ["mnist", "1.0", "yes"],
        ["mnist", "2.0", "1/1"],
    ]
    assert sum("4711" in line and "150 MiB" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("workers", "code"),
    [
        pytest.param([_worker("READY"), _worker("FAILED")], 0, id="one is ready"),
        pytest.param([_worker("FAILED")], 1, id="none is ready"),
        pytest.param([], 0, id="scaled to 0"),
    ],
)
async def test_exit_code_tells_whether_every_model_answers(
    workers: list[dict[str, object]], code: int, server: FakeServer, command: Command
) -> None:
    server.serves([described(workers=workers)])
    outcome = await command("status", "--url", server.url)
    assert outcome.code == code
    assert ("not answering: mnist" in outcome.out) is bool(code)
    assert ("out of memory" in outcome.out) is bool(workers)


async def test_json_has_the_descriptions_and_the_verdict(server: FakeServer, command: Command) -> None:
    server.serves([described(workers=[_worker("FAILED")])])
    document = json.loads((await command("status", "--json", "--url", server.url)).out)
    assert (document["url"], document["healthy"], document["troubled"]) == (server.url, False, ["mnist"])
    assert document["models"][0]["modelName"] == "mnist"


async def test_server_without_models_is_healthy(server: FakeServer, command: Command) -> None:
    server.serves()
    outcome = await command("status", "--url", server.url)
    assert (outcome.code, "It has no models." in outcome.out) == (0, True)
