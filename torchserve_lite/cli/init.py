"""``torchserve-lite init``: writes a handler project to start from, which can be tested and served as it is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from string import Template

from torchserve_lite.archive.builder import check_model_name
from torchserve_lite.errors import Conflict, ServingError

EXAMPLES = (
    "torchserve-lite init words",
    "torchserve-lite init words --path projects",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the model, and of the folder to make")
    parser.add_argument("--path", type=Path, default=Path(), metavar="DIR", help="where to make it (default: here)")


def run(arguments: argparse.Namespace) -> int:
    folder = write_project(arguments.name, arguments.path)
    print(f"Wrote {folder}: try 'make test' and 'make serve' in it, then change handler.py.")
    return 0


def write_project(name: str, parent: Path) -> Path:
    check_model_name(name)
    folder = parent / name
    if folder.exists():
        raise Conflict(f"{folder} already exists. Choose another name, or another place with --path.")
    words = "".join(word[0].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", name) if word)
    handler = f"{words if words[0].isalpha() else f'Model{words}'}Handler"
    try:
        for file, template in _FILES.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template).substitute(name=name, handler=handler), encoding="utf-8")
    except OSError as error:
        raise ServingError(f"{folder} cannot be written: {error.strerror}.") from error
    return folder


_HANDLER = '''\
"""Handler of the model $name: answers {"values": [1, 2, 3]} with the mean of the values."""

import json

import torch
from ts.torch_handler.base_handler import BaseHandler


class $handler(BaseHandler):
    """One of these lives in each worker. A batch passes through preprocess, inference and postprocess."""

    def initialize(self, context):
        """Once, before the first batch. Without this method BaseHandler loads the weights that were packed with
        --serialized-file (and --model-file, if they are a state dict) into self.model."""
        self.context = context
        self.manifest = context.manifest
        self.device = torch.device("cpu")
        self.digits = context.model_yaml_config.get("handler", {}).get("digits", 3)
        self.model = torch.mean
        self.initialized = True

    def preprocess(self, data):
        """One row per request: {"body": ...} or the names of a form's fields. JSON comes as a dict when the client
        says Content-Type: application/json, else as bytes."""
        return [torch.tensor(self._values(row), dtype=torch.float32) for row in data]

    def inference(self, data, *args, **kwargs):
        with torch.inference_mode():
            return [self.model(values) for values in data]

    def postprocess(self, data):
        """One answer per request, in the same order."""
        return [{"mean": round(mean.item(), self.digits)} for mean in data]

    @staticmethod
    def _values(row):
        body = row.get("body") or row.get("data")
        return (body if isinstance(body, dict) else json.loads(body))["values"]
'''

_CONFIG = """\
# How the model is served; times in milliseconds where a key does not say otherwise.
minWorkers: 1
maxWorkers: 1
batchSize: 8
maxBatchDelay: 20
responseTimeout: 60 # seconds

# For handler.py: context.model_yaml_config["handler"]
handler:
  digits: 3
"""

_TEST = """\
from pathlib import Path

import yaml
from torchserve_lite import testing

PROJECT = Path(__file__).parent.parent


def load():
    config = yaml.safe_load((PROJECT / "model-config.yaml").read_text())
    return testing.load(PROJECT / "handler.py", model_name="$name", model_yaml_config=config)


def test_every_request_of_a_batch_gets_its_answer():
    rows = [{"body": {"values": [1, 2, 3]}}, {"body": b'{"values": [0.5]}'}]

    assert load()(rows) == [{"mean": 2.0}, {"mean": 0.5}]
"""

_MAKEFILE = """\
# make test: the handler alone. make serve: this folder in a server. make archive: the file for other servers.
.PHONY: test archive serve

test:
\tpython -m pytest

archive: model_store/$name.mar

model_store/$name.mar: handler.py model-config.yaml
\tmkdir -p model_store
\ttorchserve-lite archive --force --model-name $name --version 1.0 --handler handler.py \\
\t\t--config-file model-config.yaml --export-path model_store

serve:
\ttorchserve-lite start . --disable-token-auth
"""

_README = """\
# $name

    make test      # tries handler.py without a server
    make serve     # serves this folder on 127.0.0.1:8080; torchserve-lite start . --watch follows your edits
    make archive   # packs model_store/$name.mar

    curl -H 'Content-Type: application/json' -d '{"values": [1, 2, 3]}' http://127.0.0.1:8080/predictions/$name

`handler.py` turns requests into answers, `model-config.yaml` says how they are batched. What goes wrong is told in the
server's terminal with the line of `handler.py`. To stop there, write `breakpoint()` and start with
`torchserve-lite start . --inline`.

Weights (`model.pt`, `.pth`, `.pt2`, `.onnx`, `.safetensors`) that lie here are loaded by BaseHandler when `initialize`
is deleted, those of a state dict into the class in `model.py`. For the archive name them in the Makefile:
`--serialized-file`, `--model-file`. `torchserve-lite inspect model_store/$name.mar` shows what is in it.
"""

_FILES = {
    "handler.py": _HANDLER,
    "model-config.yaml": _CONFIG,
    "tests/test_handler.py": _TEST,
    "Makefile": _MAKEFILE,
    "README.md": _README,
    ".gitignore": "model_store/\nlogs/\nkey_file.json\n__pycache__/\n",
}
