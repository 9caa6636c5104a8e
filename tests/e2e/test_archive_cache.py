"""``archive_cache``: a restarted server serves from it what the archive holds, whatever its handlers did meanwhile."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from tests.e2e.server import running, write_model

# Answers with what it finds in a file of its archive, and spoils that.
HANDLER = """
def handle(data, context):
    if data is None:
        return None
    with open("weights.bin", "r+b") as file:
        found = file.read(5)
        file.seek(0)
        file.write(b"spoil")
    return [found]
"""


async def test_restarted_server_takes_the_archive_from_its_cache(tmp_path: Path) -> None:
    folder, store = tmp_path / "folder", tmp_path / "store"
    store.mkdir()
    write_model(folder, "m", HANDLER, files={"weights.bin": b"whole" + os.urandom(9_000_000) + bytes(1_000_000)})
    with zipfile.ZipFile(store / "m.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (folder / "m").rglob("*"):
            archive.write(path, path.relative_to(folder / "m"))
    kept = []
    for _ in range(2):
        async with running(tmp_path, store, {"archive_cache": tmp_path / "cache"}) as server:
            assert await server.post("/predictions/m", b"") == (200, b"whole")
            assert await server.post("/predictions/m", b"") == (200, b"spoil")
            assert "kept" not in server.output
        (own,) = (tmp_path / "cache").iterdir()
        assert own.stat().st_mode & 0o777 == 0o700
        kept.append([(path.name, path.stat().st_ino) for path in own.iterdir()])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 1
