"""The operators' commands against a real server, as an operator uses them one after the other."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.e2e.server import PATIENCE, Server, environment_for, running, write_archive

HANDLER = "def handle(data, context):\n    return [{answer!r}] * len(data) if data else None\n"


class Operator:
    """At a shell in ``folder``, where the server's configuration and key file are."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self._server = server

    async def runs(self, line: str, *, code: int = 0) -> str:
        """Standard output of a command, which ends with ``code``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "torchserve_lite", *line.split()),
            cwd=self._folder,
            env=environment_for(self._folder, {"TS_URL": self._server.url}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        assert process.returncode == code, err.decode()
        return out.decode()

    async def sees(self, model: str) -> dict[str, object]:
        """The version numbers of a model, and how many workers each has."""
        described = json.loads(await self.runs(f"models {model} --json"))
        return {one["modelVersion"]: len(one["workers"]) for one in described}


async def test_model_is_registered_scaled_updated_rolled_back_and_unregistered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    write_archive(store, "old.mar", "m", "1.0", HANDLER.format(answer="old"))
    write_archive(store, "new.mar", "m", "1.0", HANDLER.format(answer="new"))
    write_archive(store, "bad.mar", "m", "1.0", "raise RuntimeError('broken')")
    write_archive(store, "second.mar", "m", "2.0", HANDLER.format(answer="second"))
    settings = {"enable_model_api": "true", "load_models": "", "default_workers_per_model": 0}
    async with running(tmp_path, store, settings) as server:
        operator = Operator(tmp_path, server)
        await operator.runs("register old.mar --workers 1")
        await operator.runs("scale m 2 3")
        assert await operator.sees("m") == {"1.0": 2}

        await operator.runs("update m new.mar")
        assert await server.post("/predictions/m") == (200, b"new")
        await operator.runs("update m bad.mar", code=1)
        assert await server.post("/predictions/m") == (200, b"new")
        await operator.runs("rollback m")
        assert await server.post("/predictions/m") == (200, b"old")

        await operator.runs("register second.mar --workers 1")
        await operator.runs("default m 2.0")
        assert await server.post("/predictions/m") == (200, b"second")
        await operator.runs("unregister m 2.0", code=1)
        await operator.runs("unregister m 1.0")
        await operator.runs("unregister m")
        assert await operator.runs("models") == "The server has no models.\n"


@pytest.mark.parametrize("flags", [[], ["--key", "wrong"]], ids=["the server's own", "a wrong one"])
async def test_key_of_the_server_opens_it(flags: list[str], tmp_path: Path) -> None:
    """Without a word: it is in the file that the server has written where it was started."""
    store = tmp_path / "store"
    store.mkdir()
    settings = {"disable_token_authorization": "false", "load_models": ""}
    async with running(tmp_path, store, settings) as server:
        await Operator(tmp_path, server).runs(" ".join(["models", *flags]), code=1 if flags else 0)
