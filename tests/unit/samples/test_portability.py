"""Samples and the projects that `init` writes load in TorchServe too: they use no name of ts that is ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.test_surface import SURFACE
from torchserve_lite.cli import init
from torchserve_lite.compat import handlers_folder

# Our ts, of which only the modules and names of TorchServe 0.12 can be seen.
STAND_IN = """
import importlib, json, pathlib, sys, types
from torchserve_lite import compat
surface, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
compat.install()
modules = {name: importlib.import_module(name) for name in surface}
seen = {name: {wanted: getattr(modules[name], wanted) for wanted in names.split()} for name, names in surface.items()}
for name in [name for name in sys.modules if name.partition(".")[0] == "ts"]:
    del sys.modules[name]
for name in surface:
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        module = sys.modules.setdefault(".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth])))
        module.__path__ = []
        if depth > 1:
            setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
    vars(module).update(seen[name])
sys.path.insert(0, str(folder))
for file in sorted(folder.glob("*.py")):
    importlib.import_module(file.stem)
    print(file.stem)
"""


def imported_beside_torchserves_ts(folder: Path) -> list[str]:
    command = [sys.executable, "-c", STAND_IN, json.dumps(SURFACE), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("sample", sorted(path.name for path in handlers_folder().iterdir() if path.is_dir()))
def test_sample_imports_only_what_torchserve_has(sample: str) -> None:
    if sample == "huggingface":
        pytest.importorskip("transformers")
    folder = handlers_folder() / sample
    assert imported_beside_torchserves_ts(folder) == sorted(file.stem for file in folder.glob("*.py"))


def test_project_of_init_imports_only_what_torchserve_has(tmp_path: Path) -> None:
    init.write_project("portable", tmp_path)
    assert imported_beside_torchserves_ts(tmp_path / "portable") == ["handler"]
