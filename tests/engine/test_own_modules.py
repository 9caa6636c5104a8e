"""A model that brings modules of its own gets them, whatever the process that workers are forked from has loaded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.engine.serving import served
from torchserve_lite.engine.launchers.processes import processes

HANDLER = """
import importlib, json, os

def handle(data, context):
    if data is None:
        return None
    module = importlib.import_module(bytes(data[0]["body"]).decode())
    return [json.dumps([getattr(module, "NAME", "of the server"), os.getppid()])]
"""
process_launchers = pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "bringing"
    model.mkdir()
    (model / "bringing.py").write_text(HANDLER)
    return model


def bring(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("NAME = 'its own'")


async def ask(launcher: str, folder: Path, module: str, *python_path: Path) -> tuple[str, bool]:
    """The module that the handler has imported, and whether its worker was forked."""
    files = {"python_path": tuple(map(str, python_path))}
    async with served(launcher, folder, engine={"files": files}) as model:
        name, parent = json.loads(bytes(await model.ask(module.encode())))
        return name, parent == processes()._forking.pid


@process_launchers
@pytest.mark.parametrize(
    ("file", "module"),
    [
        pytest.param("PIL/__init__.py", "PIL", id="PIL"),
        pytest.param("numpy.py", "numpy", id="numpy"),
        pytest.param("yaml/__init__.py", "yaml", id="yaml"),
        pytest.param("typing_extensions.py", "typing_extensions", id="typing_extensions"),
        pytest.param("msgspec/__init__.py", "msgspec", id="a package that workers themselves use"),
        pytest.param("calendar.py", "calendar", id="standard library, imported by others only"),
    ],
)
async def test_handler_gets_the_module_beside_it_when_the_server_has_one_of_its_name(
    launcher: str, file: str, module: str, folder: Path
) -> None:
    bring(folder / file)
    assert await ask(launcher, folder, module) == ("its own", False)


@process_launchers
async def test_handler_gets_the_pillow_that_its_requirements_ask_for(
    launcher: str, folder: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "packages"
    bring(installed / "PIL/__init__.py")
    bring(installed / "pillow-99.0.dist-info/METADATA")
    assert await ask(launcher, folder, "PIL", installed) == ("its own", False)


@process_launchers
async def test_handler_in_a_deeper_folder_gets_the_module_beside_it(launcher: str, folder: Path) -> None:
    bring(folder / "source/numpy.py")
    (folder / "source/bringing.py").write_text(HANDLER)
    async with served(launcher, folder, handler="source/bringing.py:handle") as model:
        assert json.loads(bytes(await model.ask(b"numpy")))[0] == "its own"


@pytest.mark.parametrize(
    ("file", "module", "name"),
    [
        pytest.param("tokens.py", "tokens", "its own", id="module of another name"),
        pytest.param("vocabulary/__init__.py", "vocabulary", "its own", id="package of another name"),
        pytest.param("profile.py", "profile", "its own", id="module of the standard library that is not loaded"),
        pytest.param("PIL/cat.png", "PIL", "of the server", id="folder of data, which no import prefers to a package"),
        pytest.param("numpy.txt", "numpy", "of the server", id="file that is no module"),
    ],
)
async def test_worker_is_forked_when_a_model_brings_nothing_that_is_loaded(
    file: str, module: str, name: str, folder: Path
) -> None:
    bring(folder / file)
    assert await ask("forked", folder, module) == (name, True)


async def test_log_says_once_which_module_keeps_a_model_from_being_forked(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bring(folder / "numpy.py")
    caplog.set_level("INFO")
    async with served("forked", folder, workers=2):
        told = [record.getMessage() for record in caplog.records if "brings its own numpy" in record.getMessage()]
    assert len(told) == 1
    assert "bringing" in told[0]


async def test_model_with_more_modules_than_can_be_asked_about_is_served_all_the_same(folder: Path) -> None:
    for number in range(1000):
        (folder / f"{'a' * 120}{number}.py").touch()
    bring(folder / "PIL.py")
    assert await ask("forked", folder, "PIL") == ("its own", False)


async def test_model_with_an_interpreter_of_its_own_is_run_by_it_also_for_a_debugger(folder: Path) -> None:
    """The handler ran in the server, and did not find what had been installed for it."""
    async with served("inline", folder, engine={"files": {"python": sys.executable}}) as model:
        assert model.pids != [os.getpid()]
        assert (await model.ask(b"calendar")) != b""


async def test_handler_runs_in_this_process_for_a_debugger_where_it_needs_no_other(folder: Path) -> None:
    async with served("inline", folder) as model:
        assert model.pids == [os.getpid()]
