"""Commands that change what a server serves: what they send, print and return."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest
from aiohttp import web

from tests.unit.cli.operators.conftest import Command, FakeServer, described, error, heed_interruption

DONE = {"status": "done"}


@pytest.mark.parametrize(
    ("argv", "sent"),
    [
        pytest.param("register a.mar", "POST /models?url=a.mar&synchronous=true", id="register"),
        pytest.param("register a.mar --no-wait", "POST /models?url=a.mar&synchronous=false", id="without waiting"),
        pytest.param(
            "register http://x/a.mar?v=1&w --name b --workers 2 --max-workers 4 --batch-size 8 --max-batch-delay 50 "
            "--handler h.py --response-timeout 9 --startup-timeout 10 --s3-sse-kms",
            "POST /models?url=http%3A%2F%2Fx%2Fa.mar%3Fv%3D1%26w&model_name=b&initial_workers=2&max_workers=4"
            "&batch_size=8&max_batch_delay=50&handler=h.py&response_timeout=9&startup_timeout=10&s3_sse_kms=true"
            "&synchronous=true",
            id="register with everything",
        ),
        pytest.param("unregister m", "DELETE /models/m", id="unregister"),
        pytest.param("unregister m 2.0", "DELETE /models/m/2.0", id="unregister a version"),
        pytest.param("unregister a/b", "DELETE /models/a%2Fb", id="a name with a slash"),
        pytest.param("scale m 2", "PUT /models/m?min_worker=2&synchronous=true", id="scale"),
        pytest.param(
            "scale m 0 3 --version 2.0 --no-wait",
            "PUT /models/m/2.0?min_worker=0&max_worker=3&synchronous=false",
            id="scale a version",
        ),
        pytest.param("default m 2.0", "PUT /models/m/2.0/set-default", id="default"),
        pytest.param("update m b.mar", "PUT /models/m?url=b.mar&synchronous=true", id="update"),
        pytest.param(
            "update m b.mar --version 2.0 --no-wait",
            "PUT /models/m/2.0?url=b.mar&synchronous=false",
            id="update a version",
        ),
        pytest.param("rollback m", "POST /models/m/rollback", id="rollback"),
        pytest.param("rollback m 2.0", "POST /models/m/2.0/rollback", id="roll back a version"),
    ],
)
async def test_command_sends_one_request_and_prints_the_status(
    argv: str, sent: str, server: FakeServer, command: Command
) -> None:
    server.answers[sent] = (200, DONE)
    outcome = await command(*argv.split(), "--url", server.url)
    assert server.asked == [sent]
    assert (outcome.code, outcome.out) == (0, "done\n")


async def test_json_is_the_servers_answer_and_nothing_else_on_standard_output(
    server: FakeServer, command: Command
) -> None:
    server.answers["PUT /models/m?min_worker=2&synchronous=true"] = (200, DONE)
    outcome = await command("scale", "m", "2", "--json", "--url", server.url)
    assert json.loads(outcome.out) == DONE
    assert outcome.err == "Scaling m ...\n"


async def test_refusal_is_told_in_the_servers_words_with_exit_code_1(server: FakeServer, command: Command) -> None:
    refusal = error(409, "ConflictStatusException", "Model version 1.0 is already registered for model m")
    server.answers["POST /models?url=m.mar&synchronous=true"] = (409, refusal)
    outcome = await command("register", "m.mar", "--url", server.url)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.endswith("torchserve-lite: Model version 1.0 is already registered for model m\n")


async def test_refusal_is_json_for_programs(server: FakeServer, command: Command) -> None:
    refusal = error(409, "ConflictStatusException", "It is there.")
    server.answers["POST /models?url=m.mar&synchronous=true"] = (409, refusal)
    outcome = await command("register", "m.mar", "--json", "--url", server.url)
    assert (outcome.code, json.loads(outcome.out)) == (1, refusal)


async def test_workers_that_are_still_missing_give_exit_code_1(server: FakeServer, command: Command) -> None:
    server.answers["PUT /models/m?min_worker=2&synchronous=true"] = (206, {"status": "Workers scaling in progress..."})
    outcome = await command("scale", "m", "2", "--url", server.url)
    assert (outcome.code, outcome.out) == (1, "Workers scaling in progress...\n")
    assert "torchserve-lite models m" in outcome.err


async def test_name_that_is_close_to_a_models_is_taken_for_a_slip(server: FakeServer, command: Command) -> None:
    server.serves([described("mnist")], [described("reader")])
    server.answers["DELETE /models/mnits"] = (404, error(404, "ModelNotFoundException", "Model not found: mnits"))
    outcome = await command("unregister", "mnits", "--url", server.url)
    assert outcome.err.endswith("Model not found: mnits. Did you mean mnist?\n")


async def test_versions_are_named_when_there_is_none_of_that_name(server: FakeServer, command: Command) -> None:
    server.serves([described("mnist", "1.0"), described("mnist", "2.0")])
    refusal = error(404, "ModelVersionNotFoundException", "Model version: 3 does not exist for model: mnist")
    server.answers["PUT /models/mnist/3/set-default"] = (404, refusal)
    outcome = await command("default", "mnist", "3", "--url", server.url)
    assert outcome.err.endswith("does not exist for model: mnist. It has 1.0, 2.0.\n")


async def test_missing_archive_suggests_no_model(server: FakeServer, command: Command) -> None:
    server.serves([described("mnist")])
    refusal = error(404, "ModelNotFoundException", "Model not found at: mnits.mar")
    server.answers["PUT /models/mnist?url=mnits.mar&synchronous=true"] = (404, refusal)
    outcome = await command("update", "mnist", "mnits.mar", "--url", server.url)
    assert outcome.err.endswith("Model not found at: mnits.mar\n")


async def test_server_without_model_api_is_explained(server: FakeServer, command: Command) -> None:
    refusal = error(405, "MethodNotAllowedException", "Requested method is not allowed.")
    server.answers["DELETE /models/m"] = (405, refusal)
    outcome = await command("unregister", "m", "--url", server.url)
    assert outcome.code == 1
    assert "--enable-model-api" in outcome.err


async def test_words_of_a_server_do_not_drive_the_terminal(server: FakeServer, command: Command) -> None:
    server.answers["DELETE /models/m"] = (500, error(500, "InternalServerException", "\x1b[2J\nit failed"))
    outcome = await command("unregister", "m", "--url", server.url)
    assert outcome.err.endswith("torchserve-lite: \\x1b[2J\nit failed\n")


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param("register", id="no archive"),
        pytest.param("scale m two", id="no number"),
        pytest.param("scale m 1 --timeout 0", id="no time"),
        pytest.param("default m", id="no version"),
        pytest.param("models --url ftp://x", id="no address"),
        pytest.param("models --key a --key-file b", id="two keys"),
    ],
)
async def test_misunderstood_command_line_gives_exit_code_2(argv: str, command: Command) -> None:
    with pytest.raises(SystemExit, match="2"):
        await command(*argv.split())


async def test_interruption_says_that_the_server_goes_on(server: FakeServer) -> None:
    """As a process: the signal is for whoever waits in a terminal."""
    asked, released = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        asked.set()
        await released.wait()
        return web.Response()

    server.holding = hold
    argv = ["-m", "torchserve_lite", "scale", "m", "2", "--url", server.url]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stderr=asyncio.subprocess.PIPE, preexec_fn=heed_interruption
    )
    async with asyncio.timeout(60):
        await asked.wait()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    released.set()
    assert process.returncode == 130
    assert "torchserve-lite models m" in err.decode()
