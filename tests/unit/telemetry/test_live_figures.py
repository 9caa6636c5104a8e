"""A sample a second of what models do, and its memory of the last minutes."""

from __future__ import annotations

from tests.conftest import KEY
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.models import ModelKey, ModelStatus
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.live_figures import LiveFigures

OTHER = ModelKey("other", "1.0")


def status_of(key: ModelKey, queued: int = 0) -> ModelStatus:
    return ModelStatus(key=key, workers=(), wanted=1, queued=queued, queue_size=100)


def test_sample_has_what_happened_since_the_last_one() -> None:
    metrics = ServerMetrics(MetricsConfig())
    live = LiveFigures(metrics, lambda: [status_of(KEY), status_of(OTHER)], kept=10)
    for key, seconds in ((KEY, 0.004), (KEY, 0.004), (OTHER, 0.2)):
        metrics.model(key).answered(0.0, seconds)
    metrics.model(KEY).failed("PredictionFailed")
    sample = live.look()
    assert set(sample.models) == {KEY, OTHER}
    assert sample.models[KEY].rate == 2 * sample.models[OTHER].rate > 0
    assert sample.models[KEY].errors > 0
    assert sample.total.latencies is not None
    assert sample.total.latencies[0] < 0.005 < 0.1 < sample.total.latencies[2]
    assert live.look().total.rate == 0


def test_models_that_do_nothing_take_no_room() -> None:
    live = LiveFigures(ServerMetrics(MetricsConfig()), lambda: [status_of(KEY), status_of(OTHER, queued=3)], kept=10)
    assert set(live.look().models) == {OTHER}


def test_only_the_last_samples_are_kept() -> None:
    live = LiveFigures(ServerMetrics(MetricsConfig()), list, kept=3)
    samples = [live.look() for _ in range(5)]
    assert list(live.samples) == samples[2:]


def test_version_that_comes_back_is_not_counted_twice() -> None:
    metrics = ServerMetrics(MetricsConfig())
    statuses = [status_of(KEY)]
    live = LiveFigures(metrics, lambda: statuses, kept=10)
    metrics.model(KEY).answered(0.0, 0.1)
    live.look()
    statuses.clear()
    live.look()
    statuses.append(status_of(KEY))
    assert live.look().total.rate == 0


def test_looking_makes_no_figures_of_a_model_that_has_none() -> None:
    metrics = ServerMetrics(MetricsConfig())
    LiveFigures(metrics, lambda: [status_of(KEY)], kept=10).look()
    assert KEY.name not in metrics.registry.render()
