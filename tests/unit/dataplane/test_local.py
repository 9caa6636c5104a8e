"""A request on its way to the engine: version, deadline, cancellation, figures; and what is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.conftest import KEY, Holder, deployment_of, failed_deployment
from tests.fake_engine import FakeEngine, echo, silence
from tests.virtual_time import virtual_time
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Part, Verb
from torchserve_lite.dataplane.interface import ModelSummary
from torchserve_lite.dataplane.local import LocalDataPlane
from torchserve_lite.errors import (
    ConfigurationError,
    DeadlineExceeded,
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRegistered,
    ModelVersionNotFound,
    NoWorkers,
    QueueFull,
    ServingError,
)
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.telemetry.catalogue import ServerMetrics

OTHER = ModelKey("tiny", "2.0")


class Parts:
    """A data plane over a fake engine, with two versions of one model."""

    def __init__(self, engine: FakeEngine | None = None, client_timeout: float | None = None) -> None:
        self.engine = engine or FakeEngine()
        self.registry = ModelRegistry()
        for key in (KEY, OTHER):
            self.registry.add(deployment_of(key=key, client_timeout=client_timeout))
        self.metrics = ServerMetrics(MetricsConfig())
        self.plane = LocalDataPlane(self.engine, self.registry, self.metrics)

    def shown(self, sample: str) -> str | None:
        """The value behind a sample's name and labels on the metrics page."""
        lines = self.metrics.registry.render().splitlines()
        return next((line.rpartition(" ")[2] for line in lines if line.startswith(sample)), None)


def request(version: str | None = None, timeout: float | None = None, model: str = "tiny") -> InferenceRequest:
    return InferenceRequest("id", model, version, Verb.PREDICT, (Part("body", b"7"),), timeout=timeout)


@pytest.mark.parametrize(("asked", "key"), [(None, KEY), ("1.0", KEY), ("2.0", OTHER)])
@virtual_time
async def test_request_goes_to_the_version_it_names_or_the_default(asked: str | None, key: ModelKey) -> None:
    parts = Parts()
    assert (await parts.plane.infer(request(asked))).body == b"7"
    assert parts.engine.jobs[0].key == key


@pytest.mark.parametrize(
    ("model", "version", "error"),
    [("unknown", None, ModelNotFound), ("tiny", "3.0", ModelVersionNotFound)],
)
@virtual_time
async def test_unknown_model_or_version_never_reaches_the_engine(
    model: str, version: str | None, error: type[ServingError]
) -> None:
    """Nor the metrics: a label for every misspelt name would be a leak that clients control."""
    parts = Parts()
    with pytest.raises(error):
        await parts.plane.infer(request(version, model=model))
    assert (parts.engine.jobs, parts.shown("ts_inference_requests_total{")) == ([], None)


@pytest.mark.parametrize(
    ("of_client", "of_model", "limit"),
    [
        pytest.param(3.0, None, 3.0, id="the client's"),
        pytest.param(None, 5.0, 5.0, id="the model's"),
        pytest.param(3.0, 5.0, 3.0, id="the shorter, client"),
        pytest.param(9.0, 5.0, 5.0, id="the shorter, model"),
    ],
)
@virtual_time
async def test_deadline_is_answered_when_it_passes(
    of_client: float | None, of_model: float | None, limit: float
) -> None:
    parts = Parts(FakeEngine(silence), client_timeout=of_model)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match=f"{limit:g} s"):
        await parts.plane.infer(request(timeout=of_client))
    assert asyncio.get_running_loop().time() == begun + limit
    (job,) = parts.engine.jobs
    assert (job.deadline, job.wanted) == (begun + limit, False)


@virtual_time
async def test_queued_job_leaves_when_its_deadline_passes() -> None:
    left: list[object] = []

    def queue(job: object) -> None:
        parts.engine.jobs[0].holder = Holder(left.append)

    parts = Parts(FakeEngine(queue))
    with pytest.raises(DeadlineExceeded):
        await parts.plane.infer(request(timeout=1))
    assert left == parts.engine.jobs


@virtual_time
async def test_request_without_a_limit_waits() -> None:
    parts = Parts(FakeEngine(silence))
    asking = asyncio.create_task(parts.plane.infer(request()))
    await asyncio.sleep(100_000)
    parts.engine.jobs[0].succeed(InferenceResponse(b"at last"))
    assert (await asking).body == b"at last"


@virtual_time
async def test_client_that_goes_away_takes_its_job_along() -> None:
    left: list[object] = []

    def queue(job: object) -> None:
        parts.engine.jobs[0].holder = Holder(left.append)

    parts = Parts(FakeEngine(queue))
    asking = asyncio.create_task(parts.plane.infer(request()))
    await asyncio.sleep(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert left == parts.engine.jobs


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda job: job.succeed(InferenceResponse(b"")), id="answered"),
        pytest.param(lambda job: job.fail(NoWorkers("tiny")), id="failed"),
        pytest.param(lambda job: job.abandon(), id="abandoned"),
        pytest.param(
            lambda job: job.add_piece(InferenceResponse(b"")), id="streamed: a time limit is for its beginning"
        ),
    ],
)
@pytest.mark.parametrize("when", ["at once", "later"])
@virtual_time
async def test_request_that_has_ended_leaves_no_timer_behind(end: Callable[[Job], None], when: str) -> None:
    parts = Parts(FakeEngine(end if when == "at once" else silence))
    job = parts.plane.begin(request(timeout=60), lambda outcome: None)
    if when == "later":
        end(job)
    assert not [timer for timer in vars(asyncio.get_running_loop())["_scheduled"] if not timer.cancelled()]


@pytest.mark.parametrize("when", ["at once", "later"])
@virtual_time
async def test_whoever_began_a_request_is_told_once_and_not_before_it_has_begun(when: str) -> None:
    """An answer that comes while the request is being begun met a connection that did not know of its job yet."""
    told: list[object] = []
    parts = Parts(FakeEngine(echo if when == "at once" else silence))
    job = parts.plane.begin(request(), told.append)
    assert told == []
    if when == "later":
        echo(job)
    job.fail(NoWorkers("tiny"))
    await asyncio.sleep(0)
    assert told == [InferenceResponse(b"7", content_type="text/plain")]


@virtual_time
async def test_nobody_is_told_of_a_request_that_was_abandoned() -> None:
    told: list[object] = []
    at_once = Parts(FakeEngine(echo)).plane.begin(request(), told.append)
    later = Parts(FakeEngine(silence)).plane.begin(request(), told.append)
    for job in (at_once, later):
        job.abandon()
        echo(job)
    await asyncio.sleep(0)
    assert told == []


@virtual_time
async def test_answer_is_counted_with_its_times() -> None:
    parts = Parts()
    await parts.plane.infer(request())
    assert parts.shown('ts_inference_requests_total{model_name="tiny",model_version="1.0"') == "1.0"
    assert parts.shown('ts_inference_seconds_count{model_name="tiny",model_version="1.0"') == "1.0"
    lines = parts.metrics.registry.render().splitlines()
    assert [line for line in lines if line.startswith("ts_inference_errors_total{") and not line.endswith(" 0.0")] == []


@virtual_time
async def test_refused_request_is_counted_as_an_error() -> None:
    parts = Parts()
    parts.engine.refusal = QueueFull("tiny", 100)
    with pytest.raises(QueueFull):
        await parts.plane.infer(request())
    assert parts.shown('ts_inference_requests_total{model_name="tiny",model_version="1.0"') == "1.0"
    assert parts.shown('ts_inference_errors_total{model_name="tiny",model_version="1.0",code="QueueFull"') == "1.0"
    assert parts.shown("ts_inference_seconds_count{") == "0.0"


@virtual_time
async def test_queue_and_workers_are_on_the_metrics_page() -> None:
    assert Parts().shown('ts_queue_length{model_name="tiny",model_version="2.0"}') == "2.0"


@pytest.mark.parametrize(
    ("state", "error"),
    [
        pytest.param(WorkerState.READY, None, id="ready"),
        pytest.param(WorkerState.STARTING, ModelLoading, id="loading"),
        pytest.param(WorkerState.RESTARTING, ModelLoading, id="crash loop"),
        pytest.param(WorkerState.FAILED, ModelFailed, id="given up"),
    ],
)
@virtual_time
async def test_readiness_tells_what_keeps_a_model_from_serving(
    state: WorkerState, error: type[ServingError] | None
) -> None:
    parts = Parts()
    parts.engine.states[KEY] = state
    for found in (await parts.plane.server_ready(), await parts.plane.readiness("tiny", None)):
        assert found.ready is (error is None)
        assert [type(cause) for cause in found.models.values()] == ([] if error is None else [error])


@virtual_time
async def test_model_that_could_not_be_registered_is_not_ready_and_says_why_to_everybody() -> None:
    parts = Parts()
    parts.registry.unopened.append(failed_deployment("broken", "broken.mar: is empty"))
    assert "broken.mar: is empty" in str((await parts.plane.readiness("broken", None)).models["broken"])
    assert "broken.mar: is empty" in str((await parts.plane.server_ready()).models["broken"])
    for question in (parts.plane.infer(request(model="broken")), parts.plane.check_known("broken", None)):
        with pytest.raises(ModelNotRegistered, match=r"broken\.mar: is empty"):
            await question
    assert (await parts.plane.readiness("tiny", None)).ready


@virtual_time
async def test_model_scaled_to_nothing_leaves_the_server_ready_but_is_not_itself() -> None:
    parts = Parts()
    await parts.engine.scale(KEY, 0)
    assert (await parts.plane.server_ready()).ready
    assert isinstance((await parts.plane.readiness("tiny", None)).models["tiny"], NoWorkers)


@pytest.mark.parametrize(
    ("begun", "queue_size", "error"), [(False, 100, ModelLoading), (True, 0, NoWorkers), (True, 100, NoWorkers)]
)
@virtual_time
async def test_model_without_workers_is_loading_until_its_loading_has_begun(
    begun: bool, queue_size: int, error: type[ServingError], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts()
    status = ModelStatus(key=KEY, workers=(), wanted=0, queued=0, queue_size=queue_size, begun=begun)
    monkeypatch.setattr(parts.engine, "status", lambda key: status)
    assert isinstance((await parts.plane.readiness("tiny", None)).models["tiny"], error)


@virtual_time
async def test_model_that_can_never_load_does_not_ask_for_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its archive was registered, and the engine would not have it: deviceIds names a GPU that is not there."""
    parts = Parts()
    parts.registry.resolve("tiny").failed(ConfigurationError("deviceIds names [7]."))
    parts.engine.refusal = ModelLoading("tiny")
    status = ModelStatus(key=KEY, workers=(), wanted=0, queued=0, queue_size=0, begun=False)
    monkeypatch.setattr(parts.engine, "status", lambda key: status)
    for found in (await parts.plane.server_ready(), await parts.plane.readiness("tiny", None)):
        assert isinstance(found.models["tiny"], ModelNotRegistered)
    with pytest.raises(ModelNotRegistered, match=r"deviceIds names \[7\]"):
        await parts.plane.infer(request())


@virtual_time
async def test_server_is_not_ready_while_archives_are_still_being_opened() -> None:
    """Without it a probe found no model that was not ready, because there was none yet, and traffic came too early."""
    parts = Parts()
    parts.registry.opening = True
    found = await parts.plane.server_ready()
    assert (found.ready, found.causes) == (False, {"reason": "The server is still opening archives."})


@pytest.mark.parametrize(
    ("name", "version", "error"), [("unknown", None, ModelNotFound), ("tiny", "3.0", ModelVersionNotFound)]
)
@virtual_time
async def test_unknown_model_is_neither_known_nor_ready(
    name: str, version: str | None, error: type[ServingError]
) -> None:
    plane = Parts().plane
    for question in (plane.readiness(name, version), plane.check_known(name, version)):
        with pytest.raises(error):
            await question


@virtual_time
async def test_models_are_summed_up() -> None:
    expected = ModelSummary(name="tiny", versions=("1.0", "2.0"), loaded_at_startup=False)
    assert await Parts().plane.models() == [expected]


@virtual_time
async def test_echo_is_the_engines_answer_unchanged() -> None:
    answer = await Parts(FakeEngine(echo)).plane.infer(request())
    assert answer == InferenceResponse(b"7", content_type="text/plain")


@virtual_time
async def test_page_says_which_models_are_ready_and_not_of_one_scaled_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    idle = ModelKey("idle", "1.0")
    parts.registry.add(deployment_of(key=idle))
    parts.registry.unopened.append(failed_deployment("broken", "no zip"))
    parts.engine.states = {OTHER: WorkerState.STARTING}
    none = ModelStatus(key=idle, workers=(), wanted=0, queued=0, queue_size=100)
    status = parts.engine.status
    monkeypatch.setattr(parts.engine, "status", lambda key: none if key == idle else status(key))
    lines = [line for line in parts.metrics.registry.render().splitlines() if line.startswith("ts_model_ready{")]
    assert lines == [
        'ts_model_ready{model_name="broken",model_version=""} 0.0',
        'ts_model_ready{model_name="tiny",model_version="1.0"} 1.0',
        'ts_model_ready{model_name="tiny",model_version="2.0"} 0.0',
    ]


@virtual_time
async def test_version_that_has_gone_is_on_the_page_no_more() -> None:
    parts = Parts()
    await parts.plane.infer(request("2.0"))
    leaving = parts.registry.resolve("tiny", "2.0")
    parts.registry.remove(leaving)
    assert parts.shown('ts_inference_requests_total{model_name="tiny",model_version="2.0"') == "1.0"
    parts.registry.forget(leaving)
    assert parts.shown('ts_inference_requests_total{model_name="tiny",model_version="2.0"') is None
