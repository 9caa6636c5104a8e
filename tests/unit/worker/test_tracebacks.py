"""A handler's failure is told by its own frames."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.worker import tracebacks
from torchserve_lite.worker.tracebacks import explain_failure, is_out_of_memory


def failure_of(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tracebacks.Failure:
    """Of importing a module with this code, by a framework that is the folder of these tests."""
    (folder / "failing_handler.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "failing_handler", raising=False)
    monkeypatch.setattr(tracebacks, "_OUR_FOLDER", str(Path(__file__).parent))
    with pytest.raises((ImportError, KeyError, RuntimeError, SyntaxError, ValueError)) as caught:
        importlib.import_module("failing_handler")
    return explain_failure(caught.value)


def files_in(traceback: str) -> list[str]:
    return re.findall(r'File ".*?([^/"]+)"', traceback)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        pytest.param("import torchvision", "pip install 'torchserve-lite[vision]'", id="extra"),
        pytest.param("from torchvision import transforms", "pip install 'torchserve-lite[vision]'", id="from an extra"),
        pytest.param("import cv2", "pip install opencv-python-headless", id="package of another name"),
        pytest.param("import sklearn.svm", "pip install scikit-learn", id="submodule"),
        pytest.param("import nvidia.dali", "pip install nvidia-dali-cuda120", id="package within a namespace"),
        pytest.param("import nobody_has_this", "the package that has the module nobody_has_this", id="unknown"),
        pytest.param(
            "try:\n import cv2\nexcept ImportError as e:\n raise RuntimeError('no camera') from e",
            "RuntimeError: no camera. cv2 comes with pip install opencv-python-headless",
            id="as the cause of another",
        ),
    ],
)
def test_missing_import_is_told_with_what_to_install(
    code: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most image handlers import torchvision, the guide's own among them."""
    for name in ("torchvision", "cv2", "sklearn", "nvidia"):
        monkeypatch.setitem(sys.modules, name, None)
    assert advice in failure_of(code, tmp_path, monkeypatch).cause


def test_missing_handler_is_no_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError) as failure:
        importlib.import_module("ts.model_loader").find_entry_point("no_such_handler")
    assert "pip install" not in explain_failure(failure.value).cause


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        pytest.param("raise ValueError('boom')", "ValueError: boom", id="message"),
        pytest.param("raise ValueError", "ValueError", id="no message"),
        pytest.param("raise ValueError('a\\n\\tb\\n')", "ValueError: a b", id="message of several lines"),
        pytest.param("{}['x']", "KeyError: 'x'", id="key"),
        pytest.param("def f(:", "SyntaxError: invalid syntax (failing_handler.py, line 1)", id="syntax"),
    ],
)
def test_fault_is_one_line_that_names_the_exception(
    code: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failure_of(code, tmp_path, monkeypatch)
    assert failure.cause == fault
    assert files_in(failure.traceback) == ["failing_handler.py"]


def test_causes_are_told_with_their_own_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('boom') from e\n"
    told = failure_of(code, tmp_path, monkeypatch).traceback
    assert told.index("KeyError: 'x'") < told.index("direct cause") < told.index("ValueError: boom")
    assert files_in(told) == ["failing_handler.py", "failing_handler.py"]


def test_frames_of_ours_behind_the_handlers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base class that the handler called may be where it failed."""
    monkeypatch.setattr(tracebacks, "shown_to_handlers", failing_helper, raising=False)
    code = "from torchserve_lite.worker.tracebacks import shown_to_handlers\nshown_to_handlers()\n"
    told = failure_of(code, tmp_path, monkeypatch).traceback
    assert files_in(told) == ["failing_handler.py", "test_tracebacks.py"]


def failing_helper() -> None:
    raise RuntimeError("in the framework")


def test_failure_that_is_all_ours_keeps_its_last_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracebacks, "_OUR_FOLDER", str(Path(__file__).parent))
    with pytest.raises(RuntimeError) as caught:
        failing_helper()
    assert files_in(explain_failure(caught.value).traceback) == ["test_tracebacks.py"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert"), True),
        (RuntimeError("cuda"), False),
        (ValueError("boom"), False),
    ],
    ids=repr,
)
def test_memory_and_cuda_errors_are_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        pytest.param("models/" + "0f" * 16, "m.mar!", id="unpacked archive"),
        pytest.param("models/" + "0f" * 16 + "/deeper", "m.mar!", id="unpacked archive with a folder in it"),
        pytest.param("work/m", None, id="folder of the author"),
        pytest.param("models/m", None, id="folder in a store"),
    ],
)
def test_frames_of_an_archives_code_name_the_archive(folder: str, shown: str | None, tmp_path: Path) -> None:
    """Where it was unpacked is a folder that its author has never heard of."""
    home = tmp_path / folder
    home.mkdir(parents=True)
    code = compile("def preprocess():\n  raise KeyError(7)\n", f"{home}/handler.py", "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(KeyError) as caught:
        names["preprocess"]()
    failure = explain_failure(caught.value, "m", str(home))
    file = f"{shown}handler.py" if shown else f"{home}/handler.py"
    assert f'File "{file}", line 2, in preprocess' in failure.traceback
    assert (failure.place, failure.stage) == (f"{file}:2", "preprocess")


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=Meta):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class Closed(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def with_notes(notes: Any) -> Exception:
    error = ValueError("a")
    error.__notes__ = notes
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        pytest.param(Nameless(), "Nameless", id="no name"),
        pytest.param(Mute(), "Mute: (Mute, whose text cannot be made)", id="no text"),
        pytest.param(Closed("a"), "Closed", id="no attributes"),
        pytest.param(with_notes(5), "ValueError: a", id="notes that are none"),
        pytest.param(ValueError("\ud800 b"), "ValueError: \\ud800 b", id="half a character"),
    ],
)
def test_any_exception_is_told_in_text_that_can_be_sent(error: Exception, cause: str) -> None:
    """The text of one like these could not be made or encoded, and the worker ended."""
    failure = explain_failure(error)
    assert failure.cause.startswith(cause)
    assert failure.traceback.encode() is not None
    assert is_out_of_memory(error) is False


LIBRARY = """
def outer(call):
    return middle(call)

def middle(call):
    return inner(call)

def inner(call):
    return call()
"""
HANDLER = """
import {library}

def handle(data, context):
    {library}.outer(mine)

def mine():
    {library}.outer(fail)

def fail():
    raise ValueError("planted")
"""


@pytest.mark.parametrize("whole", [False, True])
def test_frames_of_torch_between_the_authors_are_one_line(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = tmp_path / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "fake_torch.py").write_text(LIBRARY)
    (tmp_path / "fold_handler.py").write_text(HANDLER.format(library="fake_torch"))
    for folder in (torch, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    handler = importlib.import_module("fold_handler")
    with pytest.raises(ValueError) as caught:
        handler.handle([], None)
    shown = explain_failure(caught.value, "m", str(tmp_path), whole=whole).traceback
    assert shown.count("  ... 3 frames of torch\n") == (0 if whole else 2)
    assert files_in(shown).count("fake_torch.py") == (6 if whole else 0)
    assert shown.endswith("ValueError: planted")


def test_frame_that_raised_is_shown_also_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = tmp_path / "site-packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "failing_torch.py").write_text(LIBRARY.replace("return call()", "raise ValueError('shapes')"))
    monkeypatch.syspath_prepend(str(torch))
    library = importlib.import_module("failing_torch")
    with pytest.raises(ValueError) as caught:
        library.outer(None)
    shown = explain_failure(caught.value).traceback
    assert "... 2 frames of torch\n" in shown
    assert "in inner" in shown
