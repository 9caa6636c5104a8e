"""load_models, models and model_snapshot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchserve_lite.config.startup_models import StartupList, parse_load_models, parse_model_snapshot, parse_models
from torchserve_lite.config.values import Unacceptable
from torchserve_lite.core.options import ServingOptions


def _snapshot(fields: dict[str, Any], **more: Any) -> str:
    return json.dumps({"models": {"mnist": {"1.0": fields}}} | more)


def _only(value: str) -> ServingOptions:
    (model,) = parse_model_snapshot(value).models
    return model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ALL", StartupList(load_all=True), id="all"),
        pytest.param("a.mar", StartupList(models=(ServingOptions(url="a.mar"),)), id="file"),
        pytest.param("a=b.mar", StartupList(models=(ServingOptions(url="b.mar", name="a"),)), id="named file"),
        pytest.param(
            " a.mar , b = c.mar,",
            StartupList(models=(ServingOptions(url="a.mar"), ServingOptions(url="c.mar", name="b"))),
            id="blanks and a last comma",
        ),
        pytest.param("http://h/a.mar?v=1", StartupList(models=(ServingOptions(url="http://h/a.mar?v=1"),)), id="query"),
        pytest.param(
            "a=http://h/b.mar?v=1",
            StartupList(models=(ServingOptions(url="http://h/b.mar?v=1", name="a"),)),
            id="named query",
        ),
    ],
)
def test_load_models_is_read(text: str, expected: StartupList) -> None:
    assert parse_load_models(text) == expected


def test_load_models_refuses_a_name_without_a_file() -> None:
    with pytest.raises(Unacceptable, match='not "mnist="'):
        parse_load_models("mnist=")


def test_models_gives_overrides_by_name_and_version() -> None:
    overrides = parse_models('{"m": {"1.0": {"minWorkers": "2", "maxBatchDelay": 250, "runtimeType": "python3"}}}')
    assert overrides == {
        ("m", "1.0"): ServingOptions(
            url="", name="m", version="1.0", min_workers=2, batch_delay=0.25, runtime="python3"
        )
    }


def test_models_ignores_what_torchserve_ignores() -> None:
    fields = {"minWorkers": 0, "batchSize": -1, "responseTimeout": None, "parallelLevel": 2, "marName": "x.mar"}
    overrides = parse_models(json.dumps({"m": {"1.0": fields}}))
    assert overrides["m", "1.0"] == ServingOptions(url="", name="m", version="1.0")


def test_snapshot_says_exactly_how_a_model_is_served() -> None:
    fields = {
        "defaultVersion": True,
        "marName": "digits.mar",
        "minWorkers": 1,
        "maxWorkers": 5,
        "batchSize": 4,
        "maxBatchDelay": 200,
        "responseTimeout": 60,
        "startupTimeout": 30,
        "runtimeType": "python",
        "parallelLevel": 1,
    }
    assert _only(_snapshot(fields)) == ServingOptions(
        url="digits.mar",
        name="mnist",
        version="1.0",
        default_version=True,
        min_workers=1,
        max_workers=5,
        batch_size=4,
        batch_delay=0.2,
        response_timeout=60.0,
        startup_timeout=30.0,
        runtime="python",
        parallel_level=1,
        loaded_at_startup=False,
    )


def test_snapshot_is_lenient_with_missing_fields() -> None:
    assert _only(_snapshot({})) == ServingOptions(
        url="mnist.mar", name="mnist", version="1.0", default_version=True, loaded_at_startup=False
    )


def test_snapshot_takes_numeric_strings_and_whole_floats() -> None:
    model = _only(_snapshot({"minWorkers": "1", "batchSize": 2.0, "defaultVersion": "false"}))
    assert (model.min_workers, model.batch_size, model.default_version) == (1, 2, False)


def test_snapshot_without_default_versions_prefers_none_of_several() -> None:
    models = parse_model_snapshot('{"models": {"m": {"1": {}, "2": {}}}}').models
    assert [model.default_version for model in models] == [False, False]


@pytest.mark.parametrize("count", [0, "0", -1])
def test_snapshot_of_no_models_starts_empty(count: Any) -> None:
    assert parse_model_snapshot(json.dumps({"modelCount": count})) == StartupList()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("{", r"expected a JSON object; .* needs a \\ at the end of each", id="broken JSON"),
        pytest.param("[]", "expected a JSON object", id="a list"),
        pytest.param('{"models": {"m": {"1": {}, "1": {}}}}', '"1" comes twice in one JSON object', id="twice"),
        pytest.param(
            '{"models": {"m": {"1": {"defaultVersion": true}, "2": {"defaultVersion": true}}}}',
            "model m: versions 1 and 2 both say defaultVersion",
            id="two defaults",
        ),
        pytest.param("[" * 100_000, "nested too deeply", id="deep"),
        pytest.param("{}", 'no object "models"', id="no models"),
        pytest.param('{"models": {"m": []}}', "model m: expected", id="no versions"),
        pytest.param('{"models": {"m": {"1": 3}}}', "model m, version 1: expected an object", id="no fields"),
        pytest.param(
            _snapshot({"batchSize": "x"}), r"mnist, version 1.0: batchSize='x': .*whole number", id="no number"
        ),
        pytest.param(_snapshot({"batchSize": True}), "batchSize=True: expected a whole number", id="boolean"),
        pytest.param(_snapshot({"batchSize": 0}), "batchSize=0: expected at least 1", id="too small"),
        pytest.param(_snapshot({"maxBatchDelay": 10**400}), "whole number up to", id="too large"),
        pytest.param(
            _snapshot({"minWorkers": 6, "maxWorkers": 5}),
            "mnist, version 1.0: minWorkers=6 is larger than maxWorkers=5",
            id="min above max",
        ),
        pytest.param(
            '{"models": {"<model_name>": {"1.0": {}}}}', 'placeholder "<model_name>"; put the model', id="guide's model"
        ),
        pytest.param(
            _snapshot({"marName": "<name of the mar file.>"}),
            'placeholder "<name of the mar file.>"',
            id="guide's file",
        ),
    ],
)
def test_unusable_snapshot_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(Unacceptable, match=complaint):
        parse_model_snapshot(text)


def test_models_refuses_min_above_max_naming_both() -> None:
    with pytest.raises(Unacceptable, match="minWorkers=3 is larger than maxWorkers=2"):
        parse_models('{"m": {"1": {"minWorkers": 3, "maxWorkers": 2}}}')
