"""Tokens of a real server: where its keys are while it runs, and what is left when it does not."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from tests.e2e.server import running, write_model

_TOKENS = {"disable_token_authorization": "false"}
_ECHO = "def handle(data, context):\n    return None if data is None else [row['body'] for row in data]\n"


def _keys(folder: Path) -> dict[str, str]:
    found: dict[str, Any] = json.loads((folder / "key_file.json").read_text())
    return {name: f"Bearer {key['key']}" for name, key in found.items()}


async def test_key_file_lets_its_reader_in_and_goes_with_the_server(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "echo", _ECHO)
    async with running(tmp_path, tmp_path / "store", _TOKENS) as server:
        assert stat.S_IMODE((tmp_path / "key_file.json").stat().st_mode) == 0o600
        assert await server.line("tokens: .*key_file.json holds the keys")
        key = _keys(tmp_path)["inference"]
        assert (await server.post("/predictions/echo", b"7"))[0] == 401
        assert await server.post("/predictions/echo", b"7", Authorization=key) == (200, 7)
        assert (await server.get("/ping"))[0] == 200
        assert await server.stop() == 0
    assert not (tmp_path / "key_file.json").exists()


async def test_keys_of_a_killed_server_open_nothing_of_the_next_one(tmp_path: Path) -> None:
    write_model(tmp_path / "store", "echo", _ECHO)
    async with running(tmp_path, tmp_path / "store", _TOKENS) as server:
        server.process.kill()
        await server.process.wait()
    old = _keys(tmp_path)["inference"]
    async with running(tmp_path, tmp_path / "store", _TOKENS) as server:
        assert (await server.post("/predictions/echo", b"7", Authorization=old))[0] == 401
        assert (await server.post("/predictions/echo", b"7", Authorization=_keys(tmp_path)["inference"]))[0] == 200
