"""``torchserve-lite verify``: the first thing that a handler's author does is fail, and is told where and why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchserve_lite.archive.builder import ArchiveRequest, build

FAILS_IN_A_STAGE = """
class Handler:
    def initialize(self, context):
        {initialize}

    def handle(self, data, context):
        print("about to be asked")
        return self.postprocess(self.preprocess(data))

    def preprocess(self, data):
        return {preprocess}

    def postprocess(self, data):
        return {postprocess}
"""


def _handler(initialize: str = "pass", preprocess: str = "data", postprocess: str = "['fine']") -> str:
    return FAILS_IN_A_STAGE.format(initialize=initialize, preprocess=preprocess, postprocess=postprocess)


def test_request_that_cannot_be_read_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.mar").touch()  # no archive at all
    result = subprocess.run(
        [sys.executable, "-m", "torchserve_lite", "verify", "m.mar", "--request", "missing.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "torchserve-lite: missing.json cannot be read: No such file or directory.\n"


def _verified(folder: Path, code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    (folder / "handler.py").write_text(code)
    build(ArchiveRequest(model_name="m", version="1.0", handler=str(folder / "handler.py"), export_path=str(folder)))
    (folder / "request").write_text("x")
    return subprocess.run(
        [sys.executable, "-m", "torchserve_lite", "verify", "m.mar", "--request", "request", *flags],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("code", "told"),
    [
        pytest.param(
            _handler(preprocess="data[0]['nope']"),
            [
                "The handler failed for request verify in preprocess: KeyError: 'nope' (m.mar!handler.py:11)",
                '  File "m.mar!handler.py", line 8, in handle',
                '  File "m.mar!handler.py", line 11, in preprocess',
                "KeyError: 'nope'",
            ],
            id="preprocess",
        ),
        pytest.param(
            _handler(postprocess="1 / 0"),
            [
                "The handler failed for request verify in postprocess: ZeroDivisionError: division by zero "
                "(m.mar!handler.py:14)"
            ],
            id="postprocess",
        ),
        pytest.param(
            "import logging\nlogging.disable(50)\n" + _handler(postprocess="1 / 0"),
            ["ZeroDivisionError: division by zero"],
            id="with logging disabled",
        ),
        pytest.param(
            "import sys\nsys.stderr = sys.stdout = open('/dev/null', 'w')\n" + _handler(postprocess="1 / 0"),
            ["ZeroDivisionError: division by zero"],
            id="with its streams sent away",
        ),
        pytest.param(
            _handler(initialize="open('/nowhere')"),
            ['  File "m.mar!handler.py", line 4, in initialize', "FileNotFoundError: [Errno 2] No such file"],
            id="initialize",
        ),
        pytest.param(
            "import nobody_has_this\n",
            ['  File "m.mar!handler.py", line 1, in <module>', "No module named 'nobody_has_this'"],
            id="import",
        ),
        pytest.param("def handle(:\n", ['  File "m.mar!handler.py", line 1', "SyntaxError"], id="syntax"),
        pytest.param(_handler(postprocess="'no list'"), ["The handler returned str, not a list"], id="shape"),
        pytest.param(
            _handler(postprocess="__import__('os')._exit(3)"), ["about to be asked", "exited with code 3"], id="exit"
        ),
    ],
)
def test_failure_is_shown_with_its_place_in_the_archive(code: str, told: list[str], tmp_path: Path) -> None:
    result = _verified(tmp_path, code)
    assert result.returncode == 1
    assert [line for line in told if line not in result.stderr] == []


def test_prints_of_the_handler_are_shown_and_the_answer_stands_alone(tmp_path: Path) -> None:
    result = _verified(tmp_path, _handler())
    assert result.returncode == 0
    assert "about to be asked" in result.stderr
    assert result.stdout.splitlines()[-1] == "fine"


def test_json_has_how_long_it_took_and_the_answer(tmp_path: Path) -> None:
    report = json.loads(_verified(tmp_path, _handler(), "--json").stdout)
    assert (report["model"], report["version"]) == ("m", "1.0")
    assert (report["answer"]["status"], report["answer"]["text"]) == (200, "fine")
    assert report["load_seconds"] > 0
