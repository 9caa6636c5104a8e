"""Inspection says what would run and what will not work, and runs none of it."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest

from tests.entry_point_cases import ENTRY_POINTS, SIDE, UNDECIDED
from torchserve_lite.archive.inspection import Inspection, inspect_archive
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.archive.weights import pickled_classes

HANDLER = "from ts.torch_handler.base_handler import BaseHandler\nclass H(BaseHandler): pass\n"


def inspected(folder: Path, files: Mapping[str, str | bytes], **model: str) -> Inspection:
    """Of an archive of these files; ``model`` are keys of its manifest."""
    manifest = {"createdOn": "today", "model": {"modelName": "m", "handler": "h.py", **model}, "archiverVersion": "1"}
    runtime = model.pop("runtime", "python")
    with zipfile.ZipFile(folder / "m.mar", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({**manifest, "runtime": runtime}))
    with ModelStore(folder=folder, scratch=folder / "scratch").open("m.mar") as opened:
        return inspect_archive(opened)


def checkpoint(folder: Path, content: object, name: str = "m/data.pkl") -> Path:
    path = folder / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize(
    ("code", "handler", "entry_point"),
    [
        pytest.param(HANDLER, "h.py", "class H in h.py, method handle inherited from BaseHandler", id="class"),
        pytest.param("class H:\n def handle(self, d, c): pass", "h", "class H in h.py, method handle", id="own method"),
        pytest.param("def handle(d, c): pass", "h.py", "function handle in h.py", id="function"),
        pytest.param("async def handle(d, c): pass", "h.py", "function handle in h.py", id="async function"),
        pytest.param(HANDLER + "handle = H().handle", "h.py", "function handle in h.py", id="function before class"),
        pytest.param("def go(d, c): pass", "h.py:go", "function go in h.py", id="named function"),
        pytest.param(HANDLER, "h:absent", "class H in h.py", id="absent function falls back to the class"),
        pytest.param("from other import handle", "h.py", "function handle in h.py", id="imported"),
        pytest.param(
            "try:\n import x\nexcept ImportError:\n def handle(d, c): 1", "h.py", "function handle", id="in try"
        ),
        pytest.param("", "image_classifier", "image_classifier, built into the server", id="built in"),
    ],
)
def test_entry_point_is_found_by_torchserves_rule(code: str, handler: str, entry_point: str, tmp_path: Path) -> None:
    inspection = inspected(tmp_path, {"h.py": code}, handler=handler)

    assert inspection.entry_point.startswith(entry_point)
    assert not [problem for problem in inspection.problems if "h.py" in problem]


@pytest.mark.parametrize(("text", "handler", "name"), ENTRY_POINTS)
def test_entry_point_is_the_one_that_the_worker_takes(text: str, handler: str, name: str, tmp_path: Path) -> None:
    inspection = inspected(tmp_path, {"h.py": text, "side.py": SIDE}, handler=handler)
    assert inspection.entry_point.split(",")[0].split()[1] == name


@pytest.mark.parametrize("text", UNDECIDED)
def test_module_is_a_problem_when_there_is_no_telling(text: str, tmp_path: Path) -> None:
    (problem,) = inspected(tmp_path, {"h.py": text}).problems
    assert "h.py must define a function handle or one class" in problem
    assert "h.py:ClassName" in problem


@pytest.mark.parametrize(
    ("files", "model", "problem"),
    [
        pytest.param({}, {"handler": ""}, "names no handler", id="no handler"),
        pytest.param({}, {}, "has the handler h.py, which is neither a Python file in it", id="absent handler"),
        pytest.param({"h.py": "def f(:"}, {}, "h.py line 1: invalid syntax", id="syntax"),
        pytest.param({"h.py": "class A: 1"}, {}, "class A in h.py has no method handle", id="no method"),
        pytest.param(
            {"h.py": "import no_such_thing\n" + HANDLER}, {}, "not installed here: no_such_thing", id="import"
        ),
        pytest.param(
            {"h.py": "import side\n" + HANDLER, "side.py": "import no_such_thing"},
            {},
            "not installed here: no_such_thing",
            id="import of an import",
        ),
        pytest.param({}, {"handler": "vllm_handler"}, "not installed here: vllm", id="package of a built-in handler"),
        pytest.param(
            {"h.py": "from nvidia import dali\nimport skimage.io\n" + HANDLER},
            {},
            "skimage comes with pip install scikit-image",
            id="package of another name",
        ),
        pytest.param({"h.py": HANDLER}, {"serializedFile": "w.pt"}, "does not hold w.pt", id="absent weights"),
        pytest.param({"h.py": HANDLER}, {"modelFile": "n.py"}, "does not hold n.py", id="absent model file"),
        pytest.param(
            {"h.py": HANDLER, "c.yaml": "sequenceBatching: true"},
            {"configFile": "c.yaml"},
            "sequenceBatching: true without sequenceMaxIdleMSec",
            id="sequences",
        ),
        pytest.param({"h.py": HANDLER}, {"runtime": "LSP"}, "has the runtime LSP, for C++ handlers", id="C++"),
        pytest.param(
            {"h.py": HANDLER, "r.txt": "-i https://evil.example"},
            {"requirementsFile": "r.txt"},
            "r.txt line 1: '-i https://evil.example' uses the option -i",
            id="requirements",
        ),
    ],
)
def test_problem_is_told(files: dict[str, str], model: dict[str, str], problem: str, tmp_path: Path) -> None:
    assert any(problem in told for told in inspected(tmp_path, files, **model).problems)


def test_code_of_the_archive_is_never_run(tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    inspected(tmp_path, {"h.py": trap + "import n\n" + HANDLER, "n.py": trap}, modelFile="n.py")

    assert not (tmp_path / "ran").exists()


def test_imports_say_where_each_package_comes_from(tmp_path: Path) -> None:
    code = (
        "import json, yaml, side\nfrom . import x\ntry:\n import maybe\nexcept ImportError:\n maybe = None\n" + HANDLER
    )
    inspection = inspected(tmp_path, {"h.py": code, "side/deep.py": "import zlib"})

    assert {package.name: package.where for package in inspection.imports} == {
        "json": "Python's own",
        "maybe": "not installed",
        "side": "in the archive",
        "ts": "the server's",
        "yaml": "installed",
        "zlib": "Python's own",
    }
    assert inspection.problems == ()


def test_module_that_hides_a_common_one_is_worth_knowing(tmp_path: Path) -> None:
    inspection = inspected(tmp_path, {"h.py": HANDLER, "types.py": "", "torch/__init__.py": ""})

    hidden = [note.partition(" ")[0] for note in inspection.notes if "hides the module" in note]
    assert hidden == ["torch", "types.py"]


def test_ignored_config_values_are_worth_knowing(tmp_path: Path) -> None:
    files = {"h.py": HANDLER, "c.yaml": "deviceType: tpu"}

    assert (
        "deviceType: tpu is ignored, it must be one of cpu, gpu"
        in inspected(tmp_path, files, configFile="c.yaml").notes
    )


def test_pickled_model_is_told_with_its_classes(tmp_path: Path) -> None:
    """21. Such a file runs code when it is loaded, so it is not."""
    weights = checkpoint(tmp_path, OrderedDict(layer=Fraction(1, 2)))
    assert pickled_classes(weights) == ("fractions.Fraction",)

    files: dict[str, str | bytes] = {"h.py": HANDLER, "n.py": "class N: pass", "w.pt": weights.read_bytes()}
    inspection = inspected(tmp_path, files, serializedFile="w.pt", modelFile="n.py")
    assert "w.pt is a pickle of fractions.Fraction, which is not loaded" in inspection.problems[0]


def test_state_dict_needs_a_model_file_with_one_class(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path, OrderedDict(layer=1.0)).read_bytes()
    alone = inspected(tmp_path, {"h.py": HANDLER, "w.pt": weights}, serializedFile="w.pt")
    assert "w.pt holds a state dict: it needs a model file (--model-file)" in alone.problems[0]

    files: dict[str, str | bytes] = {"h.py": HANDLER, "w.pt": weights, "n.py": "class A: 1\nclass B: 2"}
    with_two = inspected(tmp_path, files, serializedFile="w.pt", modelFile="n.py")
    assert with_two.problems == ("n.py must define exactly one class that is a network, and defines 2 (A, B)",)
