"""What a wheel holds: all that the server needs, and no sample's weights."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from torchserve_lite.compat import handlers_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Name -> bytes of each file in it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_wheel_holds_every_default_handler(wheel: dict[str, int]) -> None:
    handlers = {f"torchserve_lite/handlers/{file.name}" for file in handlers_folder().glob("*.py")}
    assert handlers <= wheel.keys()
    parts = {f"torchserve_lite/handlers/llm/{file.name}" for file in handlers_folder().glob("llm/llm_*.py")}
    assert parts <= wheel.keys()


def test_wheel_holds_every_module_of_the_package_with_its_content(wheel: dict[str, int]) -> None:
    """One module is a link in a checkout; a wheel has none."""
    modules = {file.relative_to(ROOT).as_posix(): file.stat().st_size for file in ROOT.glob("torchserve_lite/**/*.py")}
    assert {name: wheel.get(name) for name in modules} == modules


def test_wheel_holds_the_descriptors_of_grpc(wheel: dict[str, int]) -> None:
    """They are built, and git ignores them."""
    assert wheel["torchserve_lite/protocols/grpc/generated/services.binpb"] > 0


def test_wheel_holds_the_console(wheel: dict[str, int]) -> None:
    files = {f"torchserve_lite/console/{file.name}" for file in ROOT.glob("torchserve_lite/console/*.*")}
    assert {"torchserve_lite/console/index.html", "torchserve_lite/console/console.css"} < files <= wheel.keys()


def test_ts_is_found_by_programs_of_the_environment(wheel: dict[str, int]) -> None:
    """For ``python -m ts.llm_launcher``: a file whose line is a folder beside it."""
    assert "torchserve_lite_ts.pth" in wheel
    assert "torchserve_lite/compat/ts/llm_launcher.py" in wheel


def test_wheel_holds_no_weights_and_no_training_data(wheel: dict[str, int]) -> None:
    """MNIST's weights made it 5 MB."""
    assert [
        name
        for name in wheel
        if not name.endswith((".py", ".pth", ".typed", ".yaml", ".binpb"))
        and not name.startswith(("torchserve_lite/console/", "torchserve_lite-"))
    ] == []
    assert sum(wheel.values()) < 2_000_000
