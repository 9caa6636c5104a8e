"""What an archive and the configuration say together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import (
    DevicePolicy,
    ModelKey,
    ModelSpec,
    RecoveryPolicy,
    SequenceHeaders,
    SequencePolicy,
)
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import InvalidArchive
from torchserve_lite.management.specs import build_spec, features_to_come, model_key


def model_config(**values: Any) -> ModelConfig:
    return ModelConfig(options=ServingOptions(**values))


def archive(config: ModelConfig | None = None, url: str = "m.mar", **manifest: Any) -> Archive:
    facts = {"model_name": "m", "model_version": "1.0", "handler": "h.py", **manifest}
    return Archive(
        url=url,
        path=Path(),
        scratch=Path(),
        digest="abc",
        manifest=Manifest(**facts),
        config=config or ModelConfig(),
    )


def spec(
    config: ModelConfig | None = None,
    wanted: ServingOptions | None = None,
    override: ServingOptions | None = None,
    workers: WorkerConfig | None = None,
    default_workers: int = 2,
) -> ModelSpec:
    return build_spec(
        archive(config), wanted or ServingOptions(url="m.mar"), override, workers or WorkerConfig(), default_workers
    )


def said(**values: Any) -> ServingOptions:
    return ServingOptions(url="m.mar", **values)


def of_spec(made: ModelSpec, name: str) -> Any:
    return {"batch_size": made.batch.size, "batch_delay": made.batch.delay}.get(name, getattr(made, name, None))


@pytest.mark.parametrize(
    ("handler", "config", "openai"),
    [
        ("vllm_handler", {}, True),
        ("vllm_handler.py:VLLMHandler", {}, True),
        ("llm_handler", {"openai": False}, False),
        ("h.py", {}, False),
        ("h.py", {"openai": True}, True),
    ],
)
def test_model_speaks_openai_by_its_handler_unless_its_config_says(
    handler: str, config: dict[str, Any], openai: bool
) -> None:
    assert spec(model_config(**config), said(handler=handler)).openai is openai


WORKERS = WorkerConfig(response_timeout=10.0, startup_timeout=10.0)
NUMBERS = [
    # name in our spec, name in model-config.yaml, what holds when nobody says anything
    pytest.param("batch_size", "batch_size", 1, id="batch size"),
    pytest.param("batch_delay", "batch_delay", 0.1, id="batch delay"),
    pytest.param("response_timeout", "response_timeout", 10.0, id="response timeout"),
    pytest.param("startup_timeout", "startup_timeout", 10.0, id="startup timeout"),
    pytest.param("min_workers", "min_workers", 7, id="min workers"),
    pytest.param("max_workers", "max_workers", 7, id="max workers"),
]


@pytest.mark.parametrize(("name", "yaml", "default"), NUMBERS)
def test_weakest_are_the_server_and_the_defaults(name: str, yaml: str, default: float) -> None:
    assert of_spec(spec(workers=WORKERS, default_workers=7), name) == default


@pytest.mark.parametrize(("name", "yaml", "default"), NUMBERS)
def test_models_key_is_stronger_than_the_server(name: str, yaml: str, default: float) -> None:
    assert of_spec(spec(override=said(**{name: 3}), workers=WORKERS), name) == 3


@pytest.mark.parametrize(("name", "yaml", "default"), NUMBERS)
def test_model_config_is_stronger_than_the_models_key(name: str, yaml: str, default: float) -> None:
    assert of_spec(spec(model_config(**{yaml: 4}), override=said(**{name: 3}), workers=WORKERS), name) == 4


@pytest.mark.parametrize(("name", "yaml", "default"), NUMBERS)
def test_management_call_or_snapshot_is_the_strongest(name: str, yaml: str, default: float) -> None:
    made = spec(model_config(**{yaml: 4}), wanted=said(**{name: 5}), override=said(**{name: 3}), workers=WORKERS)
    assert of_spec(made, name) == 5


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(None, None, (4, 4), id="neither"),
        pytest.param(2, None, (2, 2), id="only min"),
        pytest.param(None, 1, (1, 1), id="only max, below the default"),
        pytest.param(None, 9, (4, 9), id="only max, above the default"),
        pytest.param(2, 6, (2, 6), id="both"),
        pytest.param(0, 0, (0, 0), id="none"),
    ],
)
def test_workers_are_between_min_and_max(low: int | None, high: int | None, expected: tuple[int, int]) -> None:
    made = spec(model_config(min_workers=low, max_workers=high), default_workers=4)
    assert (made.min_workers, made.max_workers) == expected


def test_min_above_max_is_an_error_that_names_both() -> None:
    """They may come from different places: here the least from a call and the most from model-config.yaml."""
    with pytest.raises(InvalidArchive, match=r"m\.mar: minWorkers=4 is more than maxWorkers=2"):
        spec(model_config(max_workers=2), wanted=said(min_workers=4))


@pytest.mark.parametrize(
    ("wanted", "in_manifest", "url", "name"),
    [
        pytest.param("asked", "own", "file.mar", "asked", id="as asked for"),
        pytest.param(None, "own", "file.mar", "own", id="the manifest's"),
        pytest.param(None, "", "store/my-model.mar", "my_model", id="the file's"),
        pytest.param(None, "", "model.tar.gz", "model", id="the file's, of a tar archive"),
    ],
)
def test_model_is_named(wanted: str | None, in_manifest: str, url: str, name: str) -> None:
    found = model_key(archive(url=url, model_name=in_manifest), ServingOptions(url=url, name=wanted))
    assert found == ModelKey(name, "1.0")


def test_handler_comes_from_the_manifest_or_the_server() -> None:
    workers = WorkerConfig(service_handler="/default.py:handle")
    without = archive(handler="")
    assert build_spec(archive(), said(), None, workers, 1).handler == "h.py"
    assert build_spec(without, said(), None, workers, 1).handler == "/default.py:handle"
    with pytest.raises(InvalidArchive, match="default_service_handler"):
        build_spec(without, said(), None, WorkerConfig(), 1)


def test_debug_means_one_worker_without_time_limits_whatever_else_is_said() -> None:
    config = model_config(min_workers=2, response_timeout=1.0, client_timeout=1.0)
    made = spec(config, wanted=said(max_workers=5, startup_timeout=1.0), workers=WorkerConfig(debug=True))
    assert (made.min_workers, made.max_workers, made.client_timeout) == (1, 1, None)
    assert made.response_timeout == made.startup_timeout == 2**31 - 1


def test_rest_of_the_model_config_is_passed_on() -> None:
    config = ModelConfig(
        options=ServingOptions(
            client_timeout=0.3, recovery_window=20.0, queue_size=7, device_type="gpu", device_ids=(1, 3)
        ),
        raw={"handler": {"topk": 5}},
    )
    made = spec(config)
    assert (made.client_timeout, made.recovery, made.queue_size) == (0.3, RecoveryPolicy(window=20.0), 7)
    assert (made.device, made.model_config) == (DevicePolicy(type="gpu", ids=(1, 3)), {"handler": {"topk": 5}})


def test_absent_means_absent() -> None:
    made = spec(workers=WorkerConfig(queue_size=50, service_envelope="kserve"))
    assert (made.client_timeout, made.recovery, made.queue_size) == (None, RecoveryPolicy(), 50)
    assert (made.device, made.envelope, made.lanes) == (DevicePolicy(), "kserve", 1)


def test_only_models_of_a_snapshot_were_not_loaded_at_startup() -> None:
    assert spec().loaded_at_startup
    assert not spec(wanted=said(loaded_at_startup=False)).loaded_at_startup


@pytest.mark.parametrize(
    ("text", "lanes"),
    [
        ("continuousBatching: true", 1),
        ("continuousBatching: true\nbatchSize: 8", 8),
        ("continuousBatching: true\nbatchSize: 8\nasyncCommunication: true", 8),
        ("continuousBatching: true\nbatchSize: 8\nsequenceBatching: true\nsequenceMaxIdleMSec: 9", 16),
    ],
)
def test_worker_of_a_continuous_handler_has_as_many_requests_as_a_batch(text: str, lanes: int) -> None:
    made = spec(ModelConfig.parse(text.encode()))
    assert (made.continuous, made.lanes) == (True, lanes)


@pytest.mark.parametrize("text", ["continuousBatching: false", "sequenceBatching: false", "sequenceMaxIdleMSec: 9"])
def test_model_that_asks_for_neither_is_served(text: str) -> None:
    assert spec(ModelConfig.parse(text.encode())).batch.size == 1


@pytest.mark.parametrize("idle", ["", "\nsequenceMaxIdleMSec: 0"])
def test_model_whose_sequences_would_never_end_is_refused(idle: str) -> None:
    """TorchServe serves it, and answers each request with 503."""
    with pytest.raises(InvalidArchive, match=r"sequenceBatching: true without sequenceMaxIdleMSec, .* for example"):
        spec(ModelConfig.parse(f"sequenceBatching: true{idle}".encode()))


SEQUENCES = "sequenceBatching: true\nsequenceMaxIdleMSec: 9000\n"


def test_limits_of_sequences_are_the_model_configs_and_their_headers_the_servers() -> None:
    limits = "sequenceTimeoutMSec: 1500\nmaxNumSequence: 3\nmaxSequenceJobQueueSize: 5\n"
    headers = SequenceHeaders(id="X-Session", start="X-Begins", end="X-Ends")
    server = WorkerConfig(
        sequence_id_header="X-Session", sequence_start_header="X-Begins", sequence_end_header="X-Ends"
    )
    made = spec(ModelConfig.parse((SEQUENCES + limits).encode()), workers=server).sequences
    assert made == SequencePolicy(max_idle=9.0, timeout=1.5, most=3, most_waiting=5, headers=headers)
    assert spec(ModelConfig.parse(SEQUENCES.encode())).sequences == SequencePolicy(max_idle=9.0)
    assert spec(ModelConfig.parse(b"sequenceMaxIdleMSec: 9000")).sequences is None


@pytest.mark.parametrize(("said_so", "autoscale"), [("", False), ("autoscale: true", True)])
def test_workers_that_keep_sequences_are_not_given_up_unless_the_model_says_so(said_so: str, autoscale: bool) -> None:
    assert spec(ModelConfig.parse((SEQUENCES + said_so).encode())).autoscale is autoscale
    assert spec().autoscale


def test_job_tickets_are_asked_for() -> None:
    assert spec(ModelConfig.parse(b"useJobTicket: true")).job_tickets
    assert not spec().job_tickets


@pytest.mark.parametrize("key", ["parallelType: tp"])
def test_feature_that_comes_later_is_not_ignored_in_silence(key: str) -> None:
    (line,) = features_to_come(ModelConfig.parse(key.encode()))
    assert line.startswith(key.partition(":")[0])


def test_config_without_such_features_has_nothing_to_tell() -> None:
    assert not features_to_come(ModelConfig.parse(b"batchSize: 4\ncontinuousBatching: false\n"))


@pytest.mark.parametrize("wanted", [said(runtime="LSP"), None], ids=["asked for", "of the manifest"])
def test_handler_in_another_language_than_python_is_refused(wanted: ServingOptions | None) -> None:
    """It was given to a Python worker, which failed to import it, again and again."""
    made = archive(runtime="python" if wanted else "LSP")
    with pytest.raises(InvalidArchive, match="runtime is LSP, for handlers in C"):
        build_spec(made, wanted or said(), None, WorkerConfig(), 1)
