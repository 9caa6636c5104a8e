"""`torchserve_lite.testing`: users try a handler in a line, without a server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import spec_of
from torchserve_lite import testing
from torchserve_lite.core.models import ModelKey
from torchserve_lite.ipc.messages import Call, Load, SentPart
from torchserve_lite.worker.batch import BatchRunner
from torchserve_lite.worker.handlers import Handler

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


ROWS = """
class Rows:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        for row in range(len(data)):
            context.send(row, "piece")
        return [sum(row["data"]) if isinstance(row, dict) else row + 1 for row in data]


async def later(data, context):
    return data and [row + 1 for row in data]
"""
TENSOR = {"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}
SUM = {"name": "predict", "shape": [2], "datatype": "BYTES", "data": ["piece", "3"]}  # with the piece before it


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "rows.py").write_text(ROWS)
    return tmp_path / "rows.py"


def from_a_worker(envelope: str, bodies: Sequence[Any]) -> list[Any]:
    """What a worker answers to the same requests."""
    module: dict[str, Any] = {}
    exec(ROWS, module)
    load = Load(spec=spec_of(key=ModelKey("model", "1.0"), envelope=envelope), model_dir=".")
    runner = BatchRunner(
        Handler(module["Rows"]().handle, testing.context()),
        load,
        lambda stage, row: None,
    )
    parts = [SentPart("body", json.dumps(body).encode(), "application/json") for body in bodies]
    calls = [Call(f"request-{index}", "predict", (part,), ()) for index, part in enumerate(parts)]
    answers = runner.predict(calls, lambda pieces: None, lambda index: False)
    return [json.loads(bytes(answer.reply.body)) for answer in answers if not isinstance(answer.reply.body, int)]


@pytest.mark.parametrize(
    ("envelope", "bodies", "answers"),
    [
        pytest.param("body", [1, 2], [2, 3], id="body"),
        pytest.param(
            "json",
            [{"instances": [1, 2]}, {"instances": [7]}],
            [{"predictions": [["piece", 2], ["piece", 3]]}, {"predictions": [["piece", 8]]}],
            id="json",
        ),
        pytest.param(
            "kserve",
            [{"instances": [1]}, {"instances": [5, 6]}],
            [{"predictions": [["piece", 2]]}, {"predictions": [["piece", 6], ["piece", 7]]}],
            id="v1",
        ),
        pytest.param("kservev2", [{"id": "mine", "inputs": [TENSOR]}], [{"id": "mine", "outputs": [SUM]}], id="v2"),
    ],
)
def test_handler_behind_an_envelope_answers_as_it_does_in_a_worker(
    envelope: str, bodies: list[Any], answers: list[Any], rows: Path
) -> None:
    handler = testing.load(rows, service_envelope=envelope)
    got = handler([{"body": body} for body in bodies])
    read = [json.loads(answer) if isinstance(answer, str) else answer for answer in got]
    for answer, wanted in zip(read, answers, strict=True):
        assert answer == wanted if not isinstance(wanted, dict) else answer.items() >= wanted.items()
    assert read == from_a_worker(envelope, bodies)


def test_body_that_the_envelope_refuses_is_told_to_the_test(rows: Path) -> None:
    handler = testing.load(rows, service_envelope="kserve")
    with pytest.raises(Exception, match="instances") as refused:
        handler([{"body": b'{"rows": []}'}])
    assert getattr(refused.value, "error_code", None) == 400


def test_pieces_behind_an_envelope_belong_to_requests(rows: Path) -> None:
    handler = testing.load(rows, service_envelope="kserve")
    handler([{"body": {"instances": [1, 2]}}, {"body": {"instances": [3]}}])
    assert handler.sent == [(0, "piece"), (0, "piece"), (1, "piece")]


def test_explanation_behind_an_envelope_is_called_one(rows: Path) -> None:
    handler = testing.load(rows, service_envelope="kserve")
    assert handler([{"body": {"instances": [1]}}], explain=True) == [{"explanations": [["piece", 2]]}]


def test_async_handler_behind_an_envelope_is_awaited(rows: Path) -> None:
    handler = testing.load(f"{rows}:later", service_envelope="json")
    assert [json.loads(answer) for answer in handler([{"body": {"instances": [1, 2]}}])] == [{"predictions": [2, 3]}]


def test_metrics_file_is_what_the_handler_finds(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text("model_metrics: {counter: [{name: Hits, unit: count, dimensions: [Shelf]}]}")
    context = testing.context(metrics_config=tmp_path / "metrics.yaml")
    assert context.metrics.cache_keys() == ["counter:Hits"]
    assert testing.context().metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime"]


@pytest.mark.parametrize(
    "steps", ["(word for word in row['body'].split())", "later(row['body'].split())"], ids=["plain", "async"]
)
def test_generators_are_read_to_their_end(steps: str, tmp_path: Path) -> None:
    """As a worker reads them, and what they gave is kept for the test."""
    source = f"""
async def later(words):
    for word in words:
        yield word

def handle(data, context):
    return data and [{steps} for row in data]
"""
    (tmp_path / "words.py").write_text(source)
    handler = testing.load(tmp_path / "words.py")
    assert handler([{"body": "a b"}, {"body": "c"}]) == ["", ""]
    assert handler.sent == [(0, "a"), (0, "b"), (1, "c")]
