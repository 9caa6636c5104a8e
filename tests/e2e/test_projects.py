"""A handler project's first hour: served and checked in place, followed while it changes, debugged in the terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import PATIENCE, Server, environment_for, running, until
from torchserve_lite.cli.init import write_project
from torchserve_lite.cli.projects import store_of
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError

QUESTION = {"values": [1, 2, 3]}


def _edit(project: Path, before: str, after: str) -> None:
    file = project / "handler.py"
    code = file.read_text()
    assert before in code
    file.write_text(code.replace(before, after))


async def _answer(server: Server) -> tuple[int, object]:
    return await server.post("/predictions/words", QUESTION, **{"Content-Type": "application/json"})


async def test_project_is_served_as_it_lies_and_its_edits_are_followed(tmp_path: Path) -> None:
    """The server's own files lie in the project too, and reload nothing."""
    project = write_project("words", tmp_path)
    environment = {"LOG_LOCATION": str(project / "logs"), "METRICS_LOCATION": str(project / "logs")}
    flags = ["--watch", str(project)]
    async with running(tmp_path, tmp_path, {"load_models": ""}, flags=flags, environment=environment) as server:
        assert await _answer(server) == (200, {"mean": 2.0})
        _edit(project, "json.loads", "jsn.loads")
        await server.line(r"is reloaded \(generation 1\)")
        assert (await server.post("/predictions/words", b"{}"))[0] == 503
        await server.line(rf"NameError: .* \({re.escape(str(project))}/handler.py:\d+\)")
        _edit(project, "def preprocess(self, data):", "def preprocess(self, data)")
        await server.line(r"does not load; the old one is served on.*handler.py, line \d+")
        assert await _answer(server) == (200, {"mean": 2.0})
    assert not list(Path(environment_for(tmp_path, {})["TMPDIR"]).glob("*-store-*"))


def test_project_is_verified_as_it_lies(tmp_path: Path) -> None:
    project = write_project("words", tmp_path)
    (tmp_path / "question.json").write_text(json.dumps(QUESTION))
    result = subprocess.run(
        [sys.executable, "-m", "torchserve_lite", "verify", ".", "--request", "../question.json", "--json"],
        cwd=project,
        env=environment_for(tmp_path, {}),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report = json.loads(result.stdout)
    assert (report["model"], json.loads(report["answer"]["text"])) == ("words", {"mean": 2.0})


async def test_project_that_could_not_be_opened_is_served_once_it_is_mended(tmp_path: Path) -> None:
    project = write_project("words", tmp_path)
    config = (project / "model-config.yaml").read_text()
    (project / "model-config.yaml").write_text(config.replace("batchSize: 8", "batchSize: eight"))
    flags = ["--watch", str(project)]
    async with running(tmp_path, tmp_path, {"load_models": ""}, flags=flags) as server:
        await server.line('failed: words: .*batchSize: "eight" where a whole number is expected')
        await server.line("Watching")
        refusal = asyncio.create_task(server.line('has changed but cannot be served: .*"nine"'))
        while not refusal.done():  # nothing tells from when on changes are seen
            (project / "model-config.yaml").write_text(config.replace("batchSize: 8", "batchSize: nine"))
            await asyncio.wait([refusal], timeout=1)
        (project / "model-config.yaml").write_text(config)
        await server.line("words_1.0 has changed and is served now")
        assert await _answer(server) == (200, {"mean": 2.0})


async def test_breakpoint_stops_in_the_terminal_of_a_server_that_runs_handlers_inline(tmp_path: Path) -> None:
    project = write_project("words", tmp_path)
    _edit(project, '"""One answer per request, in the same order."""', "breakpoint()")
    terminal, end_of_process = os.openpty()
    seen = bytearray()
    loop = asyncio.get_running_loop()
    loop.add_reader(terminal, lambda: seen.extend(os.read(terminal, 65536)))
    settings = tmp_path / "config.properties"
    ports = [f"{role}_address=http://127.0.0.1:0\n" for role in ("inference", "management", "metrics")]
    settings.write_text("".join(ports) + "grpc_inference_port=0\ngrpc_management_port=0\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torchserve_lite", "start", ".", "--inline", "--disable-token-auth"),
        *("--ts-config", str(settings)),
        cwd=project,
        env=environment_for(tmp_path, {"TERM": "dumb"}),
        stdin=end_of_process,
        stdout=end_of_process,
        stderr=end_of_process,
        start_new_session=True,
    )
    os.close(end_of_process)
    try:
        await until(lambda: b"Model server started." in seen)
        address = re.search(rb"inference.* on (http://\S+)", seen)
        assert address
        asked = await asyncio.create_subprocess_exec(
            "curl", "-s", "-d", json.dumps(QUESTION), f"{address[1].decode()}/predictions/words", stdout=-1
        )
        await until(lambda: b"(Pdb)" in seen)
        os.write(terminal, b"p data[0].item() + 40\n")
        await until(lambda: b"42.0" in seen)
        os.write(terminal, b"continue\n")
        answer, _ = await asyncio.wait_for(asked.communicate(), PATIENCE)
        assert json.loads(answer) == {"mean": 2.0}
    finally:
        loop.remove_reader(terminal)
        process.terminate()
        await process.wait()
        os.close(terminal)


def test_links_to_what_is_named_are_all_that_is_in_reach(tmp_path: Path) -> None:
    first, second = tmp_path / "a b", tmp_path / "m.mar"
    first.mkdir()
    second.touch()
    with store_of([first, second]) as (store, names):
        assert names == ("a-b", "m.mar")
        assert {path.name: path.resolve() for path in store.iterdir()} == {"a-b": first, "m.mar": second}
    assert not store.exists()


def test_paths_that_cannot_be_served_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFound, match="no archive or project folder nowhere"), store_of([Path("nowhere")]):
        pass
    for parent in ("a", "b"):
        (tmp_path / parent / "m").mkdir(parents=True)
    paths = [tmp_path / "a" / "m", tmp_path / "b" / "m"]
    with pytest.raises(ConfigurationError, match="have the same name, m"), store_of(paths):
        pass
