"""Disks that are full: the server serves on, says what it cannot write, and leaves nothing that is half written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import zipfile
from collections import Counter
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.server import Server, running, until, write_model

MEGABYTE = 1024 * 1024
TALKATIVE = """
def handle(data, context):
    if data is None:
        return None
    request = bytes(data[0]["body"]).decode()
    print("y" * 100_000 if request == "line" else request)
    return [request]
"""
ECHO = "def handle(data, context):\n    return None if data is None else [bytes(row['body']) for row in data]\n"
LEFT_OUT = re.compile(r"([\d,]+) log lines were left out here")


class Disk(Protocol):
    """A folder of a server that is soon full. ``wrapper`` is a command that runs the server with it."""

    wrapper: tuple[str, ...]
    error: str

    def __init__(self, folder: Path, room: int) -> None: ...

    def empty(self, server: Server) -> None: ...

    def path(self, server: Server) -> Path:
        """The folder as we see it."""


class Tmpfs:
    """A file system of the server's own, in a mount namespace. It comes full but for ``room`` bytes."""

    error = "No space left on device"

    def __init__(self, folder: Path, room: int) -> None:
        folder.mkdir()
        self._folder = folder
        mount = f"mount -t tmpfs -o size={room + 16 * MEGABYTE} tmpfs {folder}"
        ballast = f"head -c {16 * MEGABYTE} /dev/zero > {folder}/ballast"
        self.wrapper = ("unshare", "-rm", "sh", "-c", f'{mount} && {ballast} && exec "$@"', "sh")

    def empty(self, server: Server) -> None:
        (self.path(server) / "ballast").unlink()

    def path(self, server: Server) -> Path:
        return Path(f"/proc/{server.process.pid}/root{self._folder}")


class FileSizeLimit:
    """What can be had without any right: files of the server may not grow beyond ``room`` bytes."""

    error = "File too large"

    def __init__(self, folder: Path, room: int) -> None:
        folder.mkdir()
        self._folder = folder
        self.wrapper = ("sh", "-c", f'ulimit -S -f {room // 512} && exec "$@"', "sh")

    def empty(self, server: Server) -> None:
        hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))

    def path(self, server: Server) -> Path:
        return self._folder


def _mounts() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


DISKS = pytest.mark.parametrize(
    "disk",
    [
        pytest.param(Tmpfs, marks=pytest.mark.skipif(not _mounts(), reason="nobody may mount anything here")),
        FileSizeLimit,
    ],
)


@DISKS
async def test_log_on_a_full_disk_goes_on_when_there_is_room_and_counts_what_it_lacks(
    disk: type[Disk], tmp_path: Path
) -> None:
    write_model(tmp_path / "store", "m", TALKATIVE)
    logs = disk(tmp_path / "logs", MEGABYTE)
    async with running(tmp_path, tmp_path / "store", {}, wrapper=logs.wrapper) as server:
        file = logs.path(server) / "ts_log.log"
        while sum(map(len, server.lines)) < 7 * MEGABYTE:  # the disk takes one, and 4 are kept
            assert await server.post("/predictions/m", b"line") == (200, b"line")
        assert f"({logs.error})" in await server.line(f"Log lines cannot be written to {tmp_path}/logs/ts_log.log")
        logs.empty(server)
        await until(lambda: LEFT_OUT.search(file.read_text()))
        assert await server.post("/predictions/m", b"spoken on") == (200, b"spoken on")
        await until(lambda: "spoken on" in file.read_text())
        await server.line("MODEL_LOG - spoken on")
        written = file.read_text().splitlines()
        shown = [line for line in server.lines if " MODEL_LOG - " in line]
    lacking = (Counter(shown) - Counter(written)).total()
    assert lacking == sum(int(told[1].replace(",", "")) for line in written if (told := LEFT_OUT.search(line))) > 0


@DISKS
async def test_archive_that_does_not_fit_is_told_and_costs_no_other_model_its_place(
    disk: type[Disk], tmp_path: Path
) -> None:
    """They are unpacked at the same time: until the one that does not fit is given up, it takes the others' room."""
    store = tmp_path / "store"
    store.mkdir()
    others = [f"small{number}" for number in range(3)]
    pack(store, "big", 6 * MEGABYTE)
    for name in others:
        pack(store, name, MEGABYTE // 4)
    scratch = disk(tmp_path / "tmp", 4 * MEGABYTE)
    async with running(tmp_path, store, {}, wrapper=scratch.wrapper) as server:
        for name in others:
            assert await server.post(f"/predictions/{name}", b"a") == (200, b"a")
        status, body = await server.post("/predictions/big", b"a")
        assert status == 503
        for text in ("big.mar", scratch.error, f"{tmp_path}/tmp/torchserve-lite-models-", "TMPDIR"):
            assert text in body["message"]  # type: ignore[index]
        (models,) = scratch.path(server).glob("torchserve-lite-models-*/models")
        assert len(list(models.iterdir())) == len(others)


def pack(store: Path, name: str, size: int) -> None:
    """An archive with a file that cannot be compressed."""
    manifest = {"model": {"modelName": name, "modelVersion": "1.0", "handler": "handler.py"}}
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", ECHO)
        archive.writestr("weights.bin", os.urandom(size))
