"""What is the handler of a module: cases that the worker and `inspect` must both answer so."""

from __future__ import annotations

import pytest

_HANDLER = "class Handler:\n    def initialize(self, c): ...\n    def handle(self, d, c): ...\n"
_BASE = "from ts.torch_handler.base_handler import BaseHandler\n"
_BEFORE = "from __future__ import annotations\nimport abc, collections, dataclasses, enum, typing\nimport torch\n"

# Code of h.py, the manifest's handler, and the name of the class or function that is called.
ENTRY_POINTS = [
    pytest.param(_BEFORE + text + _HANDLER, "h.py", "Handler", id=name)
    for name, text in {
        "alone": "",
        "beside an exception": "class BadImage(ValueError): ...\n",
        "beside an exception of an exception": "class A(Exception): ...\nclass B(A): ...\n",
        "beside an exception of ts": "from ts.utils.util import PredictionException as P\nclass A(P): ...\n",
        "beside a dataclass": "@dataclasses.dataclass\nclass Box:\n    x: int\n",
        "beside an enum": "class Color(enum.Enum):\n    RED = 1\n",
        "beside a Protocol": "class Handles(typing.Protocol):\n    def handle(self, d, c): ...\n",
        "beside a TypedDict": "class Row(typing.TypedDict):\n    x: int\n",
        "beside a NamedTuple": "class Point(typing.NamedTuple):\n    x: int\n",
        "beside a namedtuple's child": "class Point(collections.namedtuple('P', 'x')): ...\n",
        "beside a network": "class Net(torch.nn.Module): ...\n",
        "beside a helper": "class Tokenizer:\n    def __call__(self, text): ...\n",
        "beside an abstract class": "class Step(abc.ABC):\n    @abc.abstractmethod\n    def run(self): ...\n",
        "beside several of them": "class A(Exception): ...\nclass B(enum.Enum): ...\nclass C: ...\n",
    }.items()
] + [
    pytest.param(_BASE + "class H(BaseHandler): ...\nclass E(Exception): ...\n", "h.py", "H", id="inherits handle"),
    pytest.param(_BASE + "class B(BaseHandler): ...\nclass H(B): ...\n", "h.py", "H", id="its own base beside it"),
    pytest.param(
        _BASE + "class H(BaseHandler): ...\nclass Queue:\n    def handle(self, item): ...\n",
        "h.py",
        "H",
        id="a helper with handle beside a BaseHandler",
    ),
    pytest.param(
        "from side import B\nclass H(B): ...\nclass E(Exception): ...\n", "h.py", "H", id="base in the archive"
    ),
    pytest.param(
        "import ts.torch_handler.image_classifier as ic\nclass H(ic.ImageClassifier): ...\nclass E(Exception): ...\n",
        "h.py",
        "H",
        id="base by a module's alias",
    ),
    pytest.param(_HANDLER + "class E(Exception): ...\ndef handle(d, c): ...\n", "h.py", "handle", id="function first"),
    pytest.param(_HANDLER + "class Two(Handler): ...\n", "h.py:Handler", "Handler", id="class named"),
    pytest.param(_HANDLER + "class Two(Handler): ...\n", "h:Two", "Two", id="class named without .py"),
    pytest.param(_HANDLER + "class E(Exception): ...\n", "h.py:absent", "Handler", id="absent name falls back"),
]

SIDE = _BASE + "class B(BaseHandler): ...\n"  # side.py

# Code of h.py in which there is no telling.
UNDECIDED = [
    pytest.param(_HANDLER + _HANDLER.replace("Handler", "Other"), id="two that handle"),
    pytest.param(_BASE + "class A(BaseHandler): ...\nclass B(BaseHandler): ...\n", id="two BaseHandlers"),
    pytest.param("class A: ...\nclass B: ...\n", id="two that do not handle"),
    pytest.param("x = 1\n", id="no class"),
]
