"""Packages of a model: installed at registration, kept over restarts, a failure told in pip's own words."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import running, write_model

USES_PACKAGE = """
import sys, only_in_the_archive
def handle(data, context):
    return None if data is None else [only_in_the_archive.ANSWER + " from " + sys.prefix] * len(data)
"""
WHEEL = "only_in_the_archive-1.0-py3-none-any.whl"


def wheel() -> bytes:
    """A package as pip wants it, made by hand so that no registry is asked."""
    info = "only_in_the_archive-1.0.dist-info"
    files = {
        "only_in_the_archive.py": 'ANSWER = "hello"\n',
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: only-in-the-archive\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"only_in_the_archive.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def write_model_with_requirements(store: Path, requirements: str, config: str = "") -> None:
    write_model(
        store,
        "m",
        USES_PACKAGE,
        config=config,
        files={"requirements.txt": requirements.encode(), WHEEL: wheel()},
        manifest={"requirementsFile": "requirements.txt"},
    )


async def test_package_beside_the_model_is_found_by_its_handler(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model_with_requirements(store, WHEEL)
    async with running(tmp_path, store, {"install_py_dep_per_model": "true"}) as server:
        status, answer = await server.post("/predictions/m", b"x")
        assert (status, bytes(answer).split()[0]) == (200, b"hello")  # type: ignore[call-overload]
    assert not list(store.rglob("only_in_the_archive.py"))


async def test_virtual_environment_serves_the_model_and_is_kept_over_a_restart(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model_with_requirements(store, WHEEL, config="useVenv: true\n")
    settings = {"install_py_dep_per_model": "true"}
    async with running(tmp_path, store, settings) as server:
        _, first = await server.post("/predictions/m", b"x")
    environment = Path(bytes(first).decode().rpartition(" ")[2])  # type: ignore[call-overload]
    assert (environment / "pyvenv.cfg").exists()
    made = (environment / "pyvenv.cfg").stat().st_mtime_ns
    async with running(tmp_path, store, settings) as server:
        assert (await server.post("/predictions/m", b"x"))[1] == first
    assert (environment / "pyvenv.cfg").stat().st_mtime_ns == made


@pytest.mark.parametrize("config", ["", "useVenv: true\n"], ids=["beside", "venv"])
async def test_failed_installation_is_told_in_pips_words(tmp_path: Path, config: str) -> None:
    store = tmp_path / "store"
    write_model_with_requirements(store, "./not_there-1.0-py3-none-any.whl", config=config)
    async with running(tmp_path, store, {"install_py_dep_per_model": "true"}) as server:
        await server.line("failed: m: .*not_there")
        status, health = await server.get("/ping")
        assert (status, health["status"]) == (500, "Unhealthy")  # type: ignore[index]


def slow_python(folder: Path) -> tuple[Path, Path]:
    """An interpreter that does not end, and the pipe that it writes its process id to."""
    begun, slow = folder / "begun", folder / "python"
    os.mkfifo(begun)
    slow.write_text(f"#!/bin/sh\necho $$ > {begun}\nexec sleep 600\n")
    slow.chmod(0o755)
    return slow, begun


async def test_stop_does_not_wait_for_an_installation(tmp_path: Path) -> None:
    slow, begun = slow_python(tmp_path)
    write_model_with_requirements(tmp_path / "store", WHEEL)
    settings = {"install_py_dep_per_model": "true", "python": slow}
    async with running(tmp_path, tmp_path / "store", settings, ready=False) as server:
        pid = int(await asyncio.to_thread(begun.read_text))
        assert await server.stop() == 0
    assert not psutil.pid_exists(pid)
    assert not list(tmp_path.rglob("torchserve-lite-models-*"))


async def test_installation_does_not_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    slow, begun = slow_python(tmp_path)
    write_model_with_requirements(tmp_path / "store", WHEEL)
    settings = {"install_py_dep_per_model": "true", "python": slow}
    async with running(tmp_path, tmp_path / "store", settings, ready=False) as server:
        installing = psutil.Process(int(await asyncio.to_thread(begun.read_text)))
        server.process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, [installing], timeout=30)
    assert not alive
