"""The metrics that the configuration defines, as handlers find them in the workers of every launcher."""

from __future__ import annotations

import pytest

from tests.engine.serving import served
from torchserve_lite.core.metrics import MetricDefinition
from torchserve_lite.ipc.messages import Metric

LAUNCHERS = ["forked", "shared", "exec", "inline"]
DEFINED = (
    MetricDefinition("Loads", "counter", "count", ("Which",)),
    MetricDefinition("Rows", "histogram", "count", ()),
    MetricDefinition("Shelves", "gauge", "count", ("Place", "ModelName", "Shelf", "Level")),
)


def told(metrics: list[Metric] | tuple[Metric, ...]) -> list[tuple[str, str, float, dict[str, str]]]:
    return [(metric.name, metric.kind, metric.value, dict(metric.labels)) for metric in metrics]


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_handler_finds_the_configured_metrics_and_its_updates_arrive(launcher: str) -> None:
    """Those of its initialisation as well, and before the first request. Labels have the configured order."""
    async with served(launcher, "measuring", engine={"config": {"model_metrics": DEFINED}}) as model:
        assert told(model.events.load_metrics) == [("Loads", "counter", 1, {"Which": "measuring"})]
        assert await model.ask(b"") == b"counter:Loads"
        (done,) = model.events.done
    place = {"Place": "left", "ModelName": "measuring", "Shelf": "top", "Level": "Model"}
    assert told(done.metrics) == [("Rows", "histogram", 1, {}), ("Shelves", "gauge", 2, place)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_metrics_that_every_handler_finds_without_a_file_are_torchserves(launcher: str) -> None:
    async with served(launcher, "gauges") as model:
        assert await model.ask(b"") == b"gauge:HandlerTime gauge:PredictionTime"


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_stages_that_a_handler_marks_arrive_with_their_batch(launcher: str) -> None:
    async with served(launcher, "staging") as model:
        await model.ask(b"preprocess inference unheard-of")
        await model.ask(b"")
        first, second = model.events.done
    assert [stage for stage, _, _ in first.stages] == ["preprocess", "inference"]
    assert 0 <= sum(seconds for _, seconds, _ in first.stages) <= first.handler_seconds
    assert second.stages == ()


async def test_stages_of_coroutines_are_those_of_their_own_requests() -> None:
    """They were marked in one place for all requests under way, and so not measured at all."""
    async with served("forked", "staging_together", lanes=2) as model:
        jobs = [model.submit(b"preprocess"), model.submit(b"inference")]
        for job in jobs:
            await job.answer
        done = model.events.done
    assert sorted([stage for stage, _, _ in one.stages] for one in done) == [["inference"], ["preprocess"]]
    for one in done:
        assert 0 <= one.stages[0][1] <= one.handler_seconds
