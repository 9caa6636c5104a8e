"""How `handler` of a manifest becomes something to call."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ts.context import Context
from ts.model_loader import ModelLoaderFactory, TsModelLoader, find_entry_point
from ts.service import Service

from tests.entry_point_cases import ENTRY_POINTS, SIDE, UNDECIDED

Write = Callable[[str, str], None]

CLASS = """
class Handler:
    def initialize(self, context): context.loaded = True
    def handle(self, data, context): return [type(self).__name__ for _ in data]
"""
FUNCTION = """
def handle(data, context):
    if data is None:
        context.loaded = True
        return None
    return ["function" for _ in data]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the model directory, which is first in the search as it is in a worker."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write_module(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()

    yield write_module
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def call(handler: str) -> tuple[list[str], bool]:
    """The answer to a batch of two, and whether initialisation reached the handler."""
    context: Any = Context("m", ".", None, 1, None, "0.12.0")
    entry, initialize = find_entry_point(handler)
    initialize(context)
    return entry([{}, {}], context), context.loaded


@pytest.mark.parametrize(
    ("handler", "text", "answer"),
    [
        pytest.param("h1", CLASS, "Handler", id="class"),
        pytest.param("h1.py", CLASS, "Handler", id="with-py"),
        pytest.param("some/path/h1.py", CLASS, "Handler", id="with-path"),
        pytest.param("h1", FUNCTION, "function", id="function"),
        pytest.param("h1:handle", FUNCTION, "function", id="named-handle"),
        pytest.param("h1:infer", FUNCTION.replace("def handle", "def infer"), "function", id="named-function"),
        pytest.param("h1.py:infer", FUNCTION.replace("def handle", "def infer"), "function", id="py-and-function"),
        pytest.param("h1:missing", CLASS, "Handler", id="class-when-the-function-is-missing"),
        pytest.param("h1", FUNCTION + CLASS, "function", id="function-before-class"),
        pytest.param(
            "h1", "from argparse import Namespace, Action\n" + CLASS, "Handler", id="imported-classes-do-not-count"
        ),
        pytest.param("h1:Handler", "class Other: ...\n" + CLASS, "Handler", id="named-class"),
        pytest.param(
            "h1",
            "class Handler:\n    def __init__(self): self.handle = lambda data, ctx: ['attribute'] * 2\n"
            "    def initialize(self, context): context.loaded = True\n",
            "attribute",
            id="handle-is-an-attribute",
        ),
    ],
)
def test_entry_point_is_found(write: Write, handler: str, text: str, answer: str) -> None:
    write("h1.py", text)
    assert call(handler) == ([answer, answer], True)


@pytest.mark.parametrize(("text", "handler", "name"), ENTRY_POINTS)
def test_entry_point_is_the_one_that_inspect_tells(write: Write, text: str, handler: str, name: str) -> None:
    """TorchServe stops at the first class beside the handler's, an exception for instance."""
    write("h.py", text)
    write("side.py", SIDE)
    entry, _ = find_entry_point(handler)
    assert name == (type(getattr(entry, "__self__", None)).__name__ if hasattr(entry, "__self__") else entry.__name__)


@pytest.mark.parametrize("text", UNDECIDED)
def test_module_is_refused_with_the_way_out_when_there_is_no_telling(write: Write, text: str) -> None:
    write("h.py", text)
    with pytest.raises(ValueError, match=r"Expected only one class in custom service code.*h\.py:ClassName"):
        find_entry_point("h.py")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        pytest.param("x = 1", ValueError, "Expected only one class in custom service code", id="no-class"),
        pytest.param("class A:\n    def initialize(self, c): ...", ValueError, "Expect handle method", id="no-handle"),
        pytest.param("class A:\n    def handle(self, d, c): ...", AttributeError, "initialize", id="no-initialize"),
    ],
)
def test_module_without_an_entry_point_is_refused(
    write: Write, text: str, error: type[Exception], message: str
) -> None:
    write("h2.py", text)
    with pytest.raises(error, match=message):
        find_entry_point("h2")


def test_model_directory_comes_before_the_built_in_of_the_same_name(write: Write) -> None:
    write("image_classifier.py", CLASS)
    assert call("image_classifier") == (["Handler", "Handler"], True)


def test_built_in_is_found_by_its_name() -> None:
    entry, _ = find_entry_point("image_classifier")
    assert type(getattr(entry, "__self__", None)).__module__ == "ts.torch_handler.image_classifier"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("import no_such_package", "No module named 'no_such_package'", id="missing-package"),
        pytest.param("from json import nope", "cannot import name 'nope' from 'json'", id="missing-name"),
    ],
)
def test_failing_import_inside_the_handler_is_what_is_reported(write: Write, text: str, message: str) -> None:
    """0.12 said "No module named 'ts.torch_handler.h3'", and the reason was nowhere."""
    write("h3.py", text)
    with pytest.raises(ImportError, match=message):
        find_entry_point("h3")


def test_unknown_handler_is_named_with_where_it_was_looked_for() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"'nowhere'.*model directory.*built-in.*MANIFEST"):
        find_entry_point("nowhere.py:fn")


def test_loader_gives_a_service_ready_to_be_called(write: Write, tmp_path: Path) -> None:
    write("h4.py", CLASS)
    write("model-config.yaml", "handler: {k: 1}")
    manifest = {"model": {"modelName": "m", "handler": "h4.py", "configFile": "model-config.yaml"}}
    write("MAR-INF/MANIFEST.json", json.dumps(manifest))
    service = ModelLoaderFactory.get_model_loader().load("registered", str(tmp_path), "h4.py", 0, 2)
    assert isinstance(service, Service)
    assert service._entry_point([{}], service.context) == ["Handler"]
    assert (service.context.model_name, service.context.manifest) == ("registered", manifest)
    assert (service.context.model_yaml_config, vars(service.context)["loaded"]) == ({"handler": {"k": 1}}, True)
    assert service.context.metrics.model_name == "registered"


def test_loader_gives_no_manifest_when_there_is_none(write: Write, tmp_path: Path) -> None:
    write("h5.py", CLASS)
    context = TsModelLoader().load("m", str(tmp_path), "h5").context
    assert (context.manifest, context.model_yaml_config, context.request_ids) == (None, {}, None)


def test_loader_puts_the_envelope_around_the_handler(write: Write, tmp_path: Path) -> None:
    write("h6.py", "def handle(data, context):\n    return data and [row * 2 for row in data]")
    service = TsModelLoader().load("m", str(tmp_path), "h6", envelope="body")
    assert service._entry_point([{"body": 2}, {"data": 3}], service.context) == [4, 6]


def test_loader_says_what_it_lacks_when_nothing_names_a_handler(tmp_path: Path) -> None:
    """It was a TypeError: 'NoneType' object is not subscriptable."""
    with pytest.raises(ValueError, match=r"has no MAR-INF/MANIFEST\.json that names one"):
        TsModelLoader().load("m", str(tmp_path))
