"""`torchserve_lite.testing`: users try a handler in a line, without a server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from torchserve_lite import testing

HANDLER = """
import asyncio
import os

from ts.handler_utils.utils import send_intermediate_predict_response
from sibling import GREETING


class Handler:
    def initialize(self, context):
        self.at_load = (context.request_ids, os.path.exists("weights.txt"))

    def handle(self, data, context):
        send_intermediate_predict_response(["part"] * len(data), context.request_ids, "", 200, context)
        context.set_response_status(202, idx=len(data) - 1)
        name = context.get_request_header(0, "X-Name")
        explain = context.get_request_header(0, "explain")
        return [(GREETING, name, explain, row["body"], self.at_load, os.path.exists("weights.txt")) for row in data]


async def later(data, context):
    return data and [row["body"] for row in data]
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "tried_handler.py").write_text(HANDLER)
    (tmp_path / "sibling.py").write_text("GREETING = 'hello'")
    (tmp_path / "weights.txt").write_text("")
    return tmp_path


def test_handler_runs_as_in_a_worker(model_dir: Path) -> None:
    before = (list(sys.path), os.getcwd())
    handler = testing.load(model_dir / "tried_handler.py")
    assert handler([{"body": 1}], headers={"x-name": "me"}) == [("hello", "me", "False", 1, (None, True), True)]
    assert handler([{"body": 2}], explain=True)[0][2] == "True"
    assert (list(sys.path), os.getcwd()) == before


def test_what_the_handler_set_and_sent_can_be_looked_at(model_dir: Path) -> None:
    handler = testing.load(model_dir / "tried_handler.py")
    handler([{"body": 1}, {"body": 2}])
    assert [handler.context.get_response_status(index)[0] for index in (0, 1)] == [200, 202]
    assert handler.sent == [(0, "part"), (1, "part")]


def test_coroutine_of_an_async_handler_is_awaited(model_dir: Path) -> None:
    handler = testing.load(f"{model_dir}/tried_handler.py:later")
    assert handler([{"body": 1}]) == [1]


def test_handler_of_the_same_name_is_loaded_afresh(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").write_text(f"def handle(data, context): return data and ['{name}']")
    loaded = [testing.load(tmp_path / name / "handler.py") for name in ("one", "two")]
    assert [handler([{}]) for handler in loaded] == [["one"], ["two"]]


def test_context_has_what_is_given() -> None:
    context = testing.context(model_yaml_config={"k": 1}, manifest={"model": {}}, headers={"A": "b"}, requests=2)
    assert (context.model_yaml_config, context.manifest) == ({"k": 1}, {"model": {}})
    assert context.get_request_header(1, "a") == "b"
    assert context.get_request_id(1) == "request-1"


def test_context_reads_manifest_and_config_of_the_model_directory(tmp_path: Path) -> None:
    (tmp_path / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "m", "configFile": "model-config.yaml"}}
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (tmp_path / "model-config.yaml").write_text("handler: {k: 1}")
    context = testing.context(tmp_path)
    assert (context.manifest, context.model_yaml_config) == (manifest, {"handler": {"k": 1}})
    assert context.system_properties["model_dir"] == str(tmp_path)


def test_metrics_are_labelled_with_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    testing.context(model_name="mine").metrics.add_counter("Hits", 1)
    assert "[METRICS]Hits.Count:1|#ModelName:mine,Level:Model" in capsys.readouterr().out
