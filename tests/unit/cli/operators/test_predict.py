"""Files in, answers out."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from aiohttp import web
from PIL import Image

from tests.unit.cli.operators.conftest import Command, FakeServer, error


@pytest.fixture(autouse=True)
def asked(server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_INFERENCE_URL", server.url)
    (folder / "4.txt").write_text("four")
    Image.new("L", (28, 28)).save(folder / "4.png")


async def test_answer_is_printed(server: FakeServer, command: Command) -> None:
    server.answers["POST /predictions/m"] = (200, "4")
    outcome = await command("predict", "m", "4.txt")
    assert (outcome.code, outcome.out) == (0, "4")


async def test_each_answer_stands_behind_its_files_name(server: FakeServer, command: Command) -> None:
    server.answers["POST /predictions/m/2.0"] = (200, "4")
    outcome = await command("predict", "m", "4.txt", "4.png", "--version", "2.0")
    assert outcome.out == "4.txt: 4\n4.png: 4\n"


@pytest.mark.parametrize(
    ("body", "flags", "target"),
    [
        pytest.param({"instances": [1]}, [], "POST /v1/models/m:predict", id="V1"),
        pytest.param({"inputs": [1]}, [], "POST /v2/models/m/infer", id="V2"),
        pytest.param({"inputs": [1]}, ["--version", "2"], "POST /v2/models/m/versions/2/infer", id="V2 of a version"),
        pytest.param({"inputs": [1]}, ["--explain"], "POST /v2/models/m/explain", id="V2 explanation"),
        pytest.param({"values": [1]}, ["--explain"], "POST /explanations/m", id="explanation"),
    ],
)
async def test_request_goes_where_its_body_belongs(
    body: object, flags: Sequence[str], target: str, server: FakeServer, command: Command, folder: Path
) -> None:
    (folder / "request.json").write_text(json.dumps(body))
    await command("predict", "m", "request.json", *flags)
    assert server.asked[0] == target


async def test_answer_is_printed_as_it_comes(server: FakeServer, folder: Path) -> None:
    """The second piece is sent when the first one has been read from the command."""
    first_was_read = asyncio.Event()

    async def stream(request: web.Request) -> web.Response:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"once ")
        await first_was_read.wait()
        await response.write(b"upon")
        await response.write_eof()
        return response  # type: ignore[return-value]

    server.holding = stream
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "torchserve_lite", "predict", "m", "4.txt", stdout=subprocess.PIPE, env=os.environ
    )
    assert process.stdout is not None
    assert await process.stdout.readexactly(5) == b"once "
    first_was_read.set()
    assert await process.stdout.read() == b"upon"
    assert await process.wait() == 0


async def test_explanation_of_an_image_is_saved_beside_it(server: FakeServer, command: Command, folder: Path) -> None:
    attributions = numpy.zeros((1, 28, 28))
    attributions[0, 0, 0], attributions[0, 27, 27] = 0.5, -0.25
    server.answers["POST /explanations/m"] = (200, attributions.tolist())
    outcome = await command("predict", "m", "4.png", "--explain")
    assert outcome.out == "explanation saved as 4.explanation.png\n"
    with Image.open(folder / "4.explanation.png") as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.getpixel((image.width - 1, image.height - 1)) == (128, 128, 255)
        assert image.getpixel((image.width // 2, image.height // 2)) == (255, 255, 255)


async def test_explanation_of_a_text_is_printed(server: FakeServer, command: Command, folder: Path) -> None:
    server.answers["POST /explanations/m"] = (200, {"words": ["four"]})
    outcome = await command("predict", "m", "4.txt", "--explain")
    assert json.loads(outcome.out) == {"words": ["four"]}
    assert not list(folder.glob("*.explanation.png"))


async def test_json_has_the_answer_and_how_it_came(server: FakeServer, command: Command) -> None:
    server.answers["POST /predictions/m"] = (200, {"class": 4})
    (reply,) = json.loads((await command("predict", "m", "4.txt", "--json")).out)
    assert reply.pop("milliseconds") > 0
    assert reply == {"file": "4.txt", "status": 200, "content_type": "application/json", "answer": {"class": 4}}


async def test_model_that_was_meant_is_named(server: FakeServer, command: Command) -> None:
    server.answers["POST /predictions/mnits"] = (404, error(404, "ModelNotFoundException", "Model not found: mnits"))
    server.answers["GET /v1/models"] = (200, {"models": ["mnist", "words"]})
    outcome = await command("predict", "mnits", "4.txt")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "torchserve-lite: Model not found: mnits. Did you mean mnist?\n"


async def test_inference_key_is_sent(server: FakeServer, command: Command, folder: Path) -> None:
    (folder / "key_file.json").write_text(json.dumps({"management": {"key": "M"}, "inference": {"key": "I"}}))
    await command("predict", "m", "4.txt")
    assert server.keys == ["Bearer I"]


async def test_nothing_is_asked_when_a_file_cannot_be_read(server: FakeServer, command: Command) -> None:
    outcome = await command("predict", "m", "4.txt", "absent.txt")
    assert outcome.code == 1
    assert "absent.txt cannot be read" in outcome.err
    assert not server.asked


async def test_exit_code_is_3_when_no_server_answers(command: Command, unused_tcp_port: int) -> None:
    outcome = await command("predict", "m", "4.txt", "--url", f"http://127.0.0.1:{unused_tcp_port}")
    assert outcome.code == 3


async def test_refusal_names_its_file_once(server: FakeServer, command: Command) -> None:
    server.answers["POST /predictions/m"] = (500, error(500, "InternalServerException", "Prediction failed"))
    outcome = await command("predict", "m", "4.txt", "4.png")
    assert outcome.out == ""
    assert outcome.err.splitlines() == [
        "torchserve-lite: 4.txt: Prediction failed",
        "torchserve-lite: 4.png: Prediction failed",
        "The server's terminal says why, and so does: torchserve-lite logs model",
    ]
