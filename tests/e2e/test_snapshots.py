"""A server that is killed comes back with what it had answered for."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.server import Server, environment_for, write_config, write_model

_HANDLER = "def handle(data, context):\n    return ['ok'] * len(data) if data else None\n"
_NAMES = ("one", "two", "three")
_ROUNDS = 4
_CALLS = 12


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    for name in _NAMES:
        write_model(folder, name, _HANDLER)
        write_model(folder, f"{name}2", _HANDLER, manifest={"modelName": name, "modelVersion": "2.0"})
    return folder


@asynccontextmanager
async def _started(folder: Path) -> AsyncIterator[Server]:
    """With the config.properties of its current folder, or the last snapshot there. Killed in the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torchserve_lite", "start"),
        cwd=folder,
        env=environment_for(folder, {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    async with aiohttp.ClientSession() as client:
        server = Server(process, client)
        reading = asyncio.create_task(server.read_output())
        try:
            server.url = (await server.line(r"listening: inference")).rpartition(" ")[2]
            await server.line("Model server started")
            yield server
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


async def _call(server: Server, chance: random.Random, served: dict[str, Any]) -> None:
    """One change of what is ``served``."""
    name = chance.choice(_NAMES)
    workers = chance.choice((0, 1))
    versions = [version for version in served.get(name, {}) if version != "default"]
    missing = [version for version in ("1.0", "2.0") if version not in versions]
    verb = chance.choice(["register"] * bool(missing) + ["scale", "default", "unregister"] * bool(versions))
    version = chance.choice(missing if verb == "register" else versions)
    if verb == "register":
        file = name if version == "1.0" else f"{name}2"
        path = f"/models?url={file}&initial_workers={workers}&batch_size={chance.randint(1, 9)}"
        status, _ = await server.post(path)
    elif verb == "scale":
        path = f"/models/{name}/{version}?min_worker={workers}&max_worker={workers + 1}&synchronous=true"
        status, _ = await server.put(path)
    elif verb == "default":
        status, _ = await server.put(f"/models/{name}/{version}/set-default")
    else:
        async with server.client.delete(f"{server.url}/models/{name}/{version}") as response:
            status = response.status
    assert status in (200, 403), (verb, name, version, status)  # 403: it is the default and not the only one


async def _described(server: Server) -> dict[str, Any]:
    """All that must be there again: what describe shows of each version, but for its processes."""
    _, listed = await server.get("/models")
    assert isinstance(listed, dict)
    seen: dict[str, Any] = {}
    for name in sorted(model["modelName"] for model in listed["models"]):
        _, default = await server.get(f"/models/{name}")
        _, versions = await server.get(f"/models/{name}/all")
        assert isinstance(default, list)
        assert isinstance(versions, list)
        for version in versions:
            version["workers"] = len(version["workers"])
            del version["loadedAtStartup"], version["jobQueueStatus"]
        seen[name] = {
            "default": default[0]["modelVersion"],
            **{version["modelVersion"]: version for version in sorted(versions, key=lambda v: str(v["modelVersion"]))},
        }
    return seen


async def test_what_was_answered_is_there_after_kill_9(tmp_path: Path, store: Path) -> None:
    """Killed right after an answer, after some random calls, several times over."""
    write_config(tmp_path, store, {"load_models": "", "enable_model_api": "true", "default_workers_per_model": 0})
    chance = random.Random(7)
    seen: dict[str, Any] = {}
    for _ in range(_ROUNDS):
        async with _started(tmp_path) as server:
            assert await _described(server) == seen
            for _ in range(chance.randint(1, _CALLS)):
                await _call(server, chance, seen)
                seen = await _described(server)
    assert seen


async def test_kill_9_in_the_middle_of_changes_loses_none_that_was_answered(tmp_path: Path, store: Path) -> None:
    write_config(tmp_path, store, {"load_models": "", "enable_model_api": "true", "default_workers_per_model": 0})
    chance = random.Random(11)
    answered: list[str] = []

    async def register(server: Server, number: int) -> None:
        status, _ = await server.post(f"/models?url=one&model_name=m{number}")
        if status == 200:
            answered.append(f"m{number}")
        if len(answered) == chance_of_death:
            server.process.kill()

    for round_number in range(3):
        chance_of_death = len(answered) + chance.randint(1, 20)
        async with _started(tmp_path) as server:
            numbers = range(100 * round_number, 100 * round_number + 30)
            await asyncio.gather(*(register(server, number) for number in numbers), return_exceptions=True)
    async with _started(tmp_path) as server:
        _, listed = await server.get("/models?limit=100")
        assert isinstance(listed, dict)
        assert set(answered) <= {model["modelName"] for model in listed["models"]}


async def test_start_tells_what_it_restores_and_stop_saves(tmp_path: Path, store: Path) -> None:
    write_config(tmp_path, store, {"load_models": "one"})
    async with _started(tmp_path) as server:
        assert await server.stop() == 0
    kinds = [file.name.partition("-")[2] for file in sorted((tmp_path / "logs" / "config").iterdir())]
    assert kinds == ["startup.cfg", "shutdown.cfg"]
    write_config(tmp_path, store, {"load_models": "two"})
    async with _started(tmp_path) as server:
        await server.line(r"^warning: This start restores .*-shutdown\.cfg.*changed since then")
        _, listed = await server.get("/models")
        assert listed == {"models": [{"modelName": "one", "modelUrl": "one"}]}, json.dumps(listed)
