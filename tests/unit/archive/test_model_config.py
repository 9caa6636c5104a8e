"""model-config.yaml: serving keys are read, odd values are warned of, hostile YAML is refused in little time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from torchserve_lite.archive import yaml_guard
from torchserve_lite.archive.config_message import from_message, to_message
from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.core.models import Signature, TensorSpec
from torchserve_lite.core.options import ServingOptions, Torchrun
from torchserve_lite.errors import InvalidArchive

WITH_CONFIG = Manifest(config_file="model-config.yaml")


def read(text: str, folder: Path) -> ModelConfig:
    (folder / "model-config.yaml").write_text(text)
    return ModelConfig.read(folder, WITH_CONFIG, "m.mar")


def fault(text: str, folder: Path) -> str:
    with pytest.raises(InvalidArchive) as refusal:
        read(text, folder)
    assert str(refusal.value).startswith("m.mar: model-config.yaml ")
    return str(refusal.value)


def test_every_serving_key_is_read_with_times_in_seconds(tmp_path: Path) -> None:
    text = """
minWorkers: 1
maxWorkers: 4
batchSize: 8
maxBatchDelay: 250
responseTimeout: 60
startupTimeout: 30
clientTimeoutInMills: 1500
maxRetryTimeoutInSec: 10
jobQueueSize: 20
deviceType: GPU
deviceIds: [0, 2]
parallelType: tp
parallelLevel: 2
useVenv: true
useJobTicket: false
asyncCommunication: true
continuousBatching: true
sequenceBatching: true
sequenceMaxIdleMSec: 2000
sequenceTimeoutMSec: 500
maxNumSequence: 3
maxSequenceJobQueueSize: 5
"""
    assert read(text, tmp_path) == ModelConfig(
        options=ServingOptions(
            min_workers=1,
            max_workers=4,
            batch_size=8,
            batch_delay=0.25,
            response_timeout=60.0,
            startup_timeout=30.0,
            client_timeout=1.5,
            recovery_window=10.0,
            queue_size=20,
            device_type="gpu",
            device_ids=(0, 2),
            parallel_type="tp",
            parallel_level=2,
            use_venv=True,
            use_job_ticket=False,
            async_communication=True,
            continuous_batching=True,
            sequence_batching=True,
            sequence_max_idle=2.0,
            sequence_timeout=0.5,
            max_num_sequence=3,
            max_sequence_job_queue_size=5,
        ),
        raw=yaml.safe_load(text),
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"], ids=["empty", "comment", "document mark"])
def test_empty_file_is_an_empty_mapping_for_the_handler(text: str, tmp_path: Path) -> None:
    """TorchServe hands None to the handler, and its own BaseHandler trips over it."""
    assert read(text, tmp_path) == ModelConfig(raw={})


def test_keys_of_the_handler_pass_unchanged_and_unwarned(tmp_path: Path) -> None:
    config = read("handler: {mapping: [1, 2.5, text, null]}\npt2: {compile: {enable: True}}\n", tmp_path)

    assert config.raw == {"handler": {"mapping": [1, 2.5, "text", None]}, "pt2": {"compile": {"enable": True}}}
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        pytest.param("minWorkers: 2", "min_workers", 2, id="minWorkers alone counts"),
        pytest.param("minWorkers: 0", "min_workers", 1, id="minWorkers below one"),
        pytest.param("batchSize: -3", "batch_size", 1, id="batchSize below one"),
        pytest.param("maxBatchDelay: 0", "batch_delay", None, id="maxBatchDelay zero is not set"),
        pytest.param("clientTimeoutInMills: 0", "client_timeout", None, id="clientTimeoutInMills off"),
        pytest.param("jobQueueSize: 0", "queue_size", None, id="jobQueueSize zero is not set"),
        pytest.param("maxRetryTimeoutInSec: 0", "recovery_window", 0.0, id="no recovery window"),
        pytest.param("maxNumSequence: 3", "max_num_sequence", None, id="sequence limits need an idle time"),
        pytest.param("batchSize: 4", "response_timeout", None, id="absent timeout is absent"),
    ],
)
def test_value_is_settled_by_torchserves_rule(text: str, field: str, value: object, tmp_path: Path) -> None:
    config = read(text, tmp_path)

    assert getattr(config.options, field) == value
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        pytest.param("responseTimeout: 0", "responseTimeout: 0 is ignored, it must be at least 1", id="no time"),
        pytest.param("maxBatchDelay: -1", "maxBatchDelay: -1 is ignored, it must be at least 0", id="negative"),
        pytest.param("deviceType: tpu", "deviceType: tpu is ignored, it must be one of cpu, gpu", id="device"),
        pytest.param("deviceIds: [0, -1]", "deviceIds: [0, -1] is ignored, it must be at least 0", id="device id"),
        pytest.param(
            "deviceType: cpu\ndeviceIds: [0]", "deviceIds is ignored, since deviceType is cpu", id="ids of a CPU"
        ),
        pytest.param("torchrun: {nnodes: 0}", "torchrun: nnodes: 0 is ignored, it must be at least 1", id="nnodes"),
        pytest.param("torchrun: {speed: 1}", "torchrun: speed is not known", id="unknown torchrun key"),
    ],
)
def test_value_outside_its_range_is_ignored_with_a_warning(text: str, warning: str, tmp_path: Path) -> None:
    config = read(f"maxWorkers: 7\n{text}\n", tmp_path)

    assert config.options.max_workers == 7
    assert len(config.warnings) == 1
    assert warning in config.warnings[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param('minWorkers: "2"', 'minWorkers: "2" where a whole number is expected', id="text"),
        pytest.param("batchSize: 2.5", "batchSize: 2.5 where a whole number is expected", id="float"),
        pytest.param("batchSize: true", "batchSize: true where a whole number is expected", id="boolean"),
        pytest.param("responseTimeout: 4294967296", "4294967296 where a whole number up to 2147483647 is", id="long"),
        pytest.param("maxBatchDelay: [50]", "maxBatchDelay: [50] where a whole number is expected", id="list"),
        pytest.param("deviceIds: [0, x]", "where a list of whole numbers is expected", id="one bad device id"),
        pytest.param("deviceIds: 0", "deviceIds: 0 where a list of whole numbers is expected", id="bare device id"),
        pytest.param("deviceType: 1", "deviceType: 1 where text is expected", id="device"),
        pytest.param("useVenv: 1", "useVenv: 1 where true or false is expected", id="flag"),
        pytest.param("torchrun: 2", "torchrun: 2 where a mapping is expected", id="torchrun"),
        pytest.param("torchrun: {nnodes: x}", 'torchrun: nnodes: "x" where a whole number is expected', id="nnodes"),
        pytest.param(f"jobQueueSize: {'x' * 999}", f'jobQueueSize: "{"x" * 79}... where', id="long text is cut"),
        pytest.param(
            'batchSize: "2"\nuseVenv: 1',
            'batchSize: "2" where a whole number is expected; useVenv: 1',
            id="all at once",
        ),
    ],
)
def test_value_of_the_wrong_type_is_an_error_naming_file_key_value_and_what_is_expected(
    text: str, problem: str, tmp_path: Path
) -> None:
    assert problem in fault(text, tmp_path)


def test_key_without_a_value_is_absent(tmp_path: Path) -> None:
    config = read("minWorkers:\ndeviceIds: ~\ntorchrun:\n", tmp_path)
    assert (config.options, config.warnings) == (ServingOptions(), ())


@pytest.mark.parametrize(
    ("text", "level"),
    [
        pytest.param("torchrun: {nproc-per-node: 4}\n", 4, id="alone"),
        pytest.param("parallelLevel: 2\ntorchrun: {nproc-per-node: 4}\n", 4, id="later"),
        pytest.param("torchrun: {nproc-per-node: 4}\nparallelLevel: 2\n", 2, id="earlier"),
        pytest.param("torchrun: {nnodes: 1}\nparallelLevel: 2\n", 2, id="without processes"),
    ],
)
def test_torchrun_sets_the_parallel_level_when_it_comes_later(text: str, level: int, tmp_path: Path) -> None:
    assert read(text, tmp_path).options.parallel_level == level


def test_torchrun_keys_are_read(tmp_path: Path) -> None:
    text = "torchrun: {nproc-per-node: 2, rdzv-backend: c10d, OMP_NUMBER_THREADS: 3, monitor-interval: 7}"

    expected = Torchrun(nproc_per_node=2, rdzv_backend="c10d", omp_threads=3, monitor_interval=7)
    assert read(text, tmp_path).options.torchrun == expected


def test_archive_without_config_file_has_an_empty_config(tmp_path: Path) -> None:
    assert ModelConfig.read(tmp_path, Manifest(), "m.mar") == ModelConfig()


def test_config_file_that_is_missing_is_a_warning(tmp_path: Path) -> None:
    """TorchServe serves such archives, so we do."""
    config = ModelConfig.read(tmp_path, WITH_CONFIG, "m.mar")

    assert config.raw == {}
    assert "model-config.yaml, which it does not hold" in config.warnings[0]


LAUGHS = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("minWorkers: 1\n  batchSize: 2\n", "is not valid YAML", id="broken"),
        pytest.param("minWorkers: 1\n  batchSize: 2\n", "(line 2, column ", id="broken, where"),
        pytest.param("a: [1, 2", "is not valid YAML", id="unclosed"),
        pytest.param("- a\n- b\n", "must hold a mapping of keys to values, not a list", id="list"),
        pytest.param("just text", "must hold a mapping of keys to values, not a str", id="text"),
        pytest.param("a: 1\n---\nb: 2\n", "holds more than one document (line 2, column 1)", id="two documents"),
        pytest.param("a: \x07", "is not valid YAML", id="control character"),
        pytest.param("minWorkers: 5\nmaxWorkers: 2\n", "minWorkers: 5 above maxWorkers: 2", id="min above max"),
        pytest.param(LAUGHS, "stands for more than 100,000 values (line 6", id="20 anchors bomb"),
        pytest.param("a: &a {b: *a}", "refers to &a, which is not defined before or contains itself", id="20 circle"),
        pytest.param("a: *b", "refers to &b, which is not defined", id="20 unknown anchor"),
        pytest.param("a: !!python/object:os.system {}", "a Python object by !!python/object:os.system", id="20 object"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "line 1, column 4", id="20 object/apply"),
        pytest.param("a: !!python/name:os.system ''", "only plain values are read", id="20 name"),
        pytest.param("a: !mine 1", "(line 1, column 4)", id="20 own tag"),
        pytest.param("[" * 65 + "]" * 65, "is nested more than 64 deep (line 1, column 65)", id="20 depth"),
        pytest.param("- " * 65 + "x", "is nested more than 64 deep", id="20 depth of blocks"),
        pytest.param("[" * 10**5, "(line 1, column ", id="20 depth that the parser refuses first"),
        pytest.param("- " * 10**5, "(line 1, column ", id="20 depth of blocks that the parser refuses first"),
        pytest.param("a: " + "x" * 2**20, "is larger than 1,048,576 bytes", id="20 size"),
        pytest.param("a: 2024-99-99", "'2024-99-99' that cannot be read as !!timestamp (line 1, column 4)", id="date"),
        pytest.param("a: !!bool maybe", "'maybe' that cannot be read as !!bool (line 1, column 4)", id="bool"),
        pytest.param("b:\n- a: !!int ''", "'' that cannot be read as !!int (line 2, column 6)", id="int of nothing"),
        pytest.param("a: !!int x", "'x' that cannot be read as !!int", id="int of text"),
        pytest.param("a: !!float ''", "'' that cannot be read as !!float", id="float of nothing"),
        pytest.param("a: !!timestamp soon", "'soon' that cannot be read as !!timestamp", id="timestamp of text"),
        pytest.param("a: 2024-01-01T00:00:00+99:99", "cannot be read as !!timestamp", id="zone of 99 hours"),
        pytest.param("a: " + "9" * 5000, "a number of 5,000 characters", id="integer of 5000 digits"),
        pytest.param("!!bool maybe: 1", "cannot be read as !!bool (line 1, column 1)", id="key"),
        pytest.param("a: !!set {!!bool x}", "cannot be read as !!bool", id="inside a set"),
        pytest.param("a: !!omap [b: !!bool x]", "cannot be read as !!bool", id="inside an ordered mapping"),
        pytest.param("a: !!binary \u00e9", "(line 1, column 4)", id="binary"),
        pytest.param("? [a]\n: 1", "(line 1, column 3)", id="list as key"),
    ],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
def test_file_is_refused_with_its_fault(
    loader: type, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_guard, "_SafeLoader", loader)
    assert message in fault(text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("since: 2024-01-02", id="date"),
        pytest.param("since: !!timestamp 2024-01-02", id="date by its tag"),
        pytest.param("at: 2024-01-02 03:04:05", id="time"),
        pytest.param("at: 2024-01-02T03:04:05Z", id="time in a zone"),
        pytest.param("labels: !!set {a, b}", id="set"),
        pytest.param("deep: [{labels: !!set {2024-01-02}}]", id="date in a set in a list"),
        pytest.param("2024-01-02: x", id="date as key"),
        pytest.param("seed: 123456789012345678901234567890", id="large integer"),
        pytest.param("key: !!binary aGk=", id="bytes"),
        pytest.param("1: a\n~: b\n1.5: c\ntrue: d", id="keys that are no text"),
        pytest.param("handler: {topk: 5, mean: [0.1, 0.2]}", id="plain"),
        pytest.param("model-config.yaml: 1", id="our own mark"),
        pytest.param("order: !!omap [a: 1, b: [2]]", id="ordered mapping"),
        pytest.param("pairs: !!pairs [[1]: 2, [1]: {deep: !!pairs [x: 1]}]", id="pairs"),
    ],
)
def test_value_reaches_the_handler_as_yaml_has_it(text: str, tmp_path: Path) -> None:
    """TorchServe's worker reads the file by itself; ours gets it in a message, which has fewer types."""
    sent = msgspec.msgpack.encode(to_message(read(text, tmp_path).raw))

    assert from_message(msgspec.msgpack.decode(sent)) == yaml.safe_load(text)


@pytest.mark.parametrize("zone", ["Z", "+02:00", "-5"])
def test_time_keeps_its_zone_on_the_way_to_the_handler(zone: str, tmp_path: Path) -> None:
    """msgpack gives back a time that is equal, in UTC."""
    text = f"at: 2024-01-02 03:04:05 {zone}"
    sent = msgspec.msgpack.encode(to_message(read(text, tmp_path).raw))
    assert repr(from_message(msgspec.msgpack.decode(sent))) == repr(yaml.safe_load(text))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("1" + ":59" * 300_000, id="to the base of 60"),
        pytest.param("0x" + "f" * 5000, id="hexadecimal"),
        pytest.param("0b" + "1" * 100_000, id="binary"),
        pytest.param("9" * 5000, id="decimal"),
        pytest.param("1." + "0" * 5000, id="fraction"),
    ],
)
def test_number_of_thousands_of_digits_is_refused_with_its_place(number: str, tmp_path: Path) -> None:
    """A megabyte of 1:1:1 took most of a minute, and a long hexadecimal one could not be given to a worker."""
    text = f"a: 1\nb: {number}\n"
    with pytest.raises(InvalidArchive, match=r"has a number of .* characters \(line 2, column 4\)"):
        read(text, tmp_path)


def test_aliases_in_reason_are_fine(tmp_path: Path) -> None:
    config = read("base: &base {lr: 1}\nfirst: {<<: *base, n: 1}\nsecond: *base\n", tmp_path)

    assert config.raw["first"] == {"lr": 1, "n": 1}
    assert config.raw["second"] == {"lr": 1}


def test_signature_is_what_the_config_says_of_tensors() -> None:
    config = ModelConfig.parse(
        b"""
        tensorSignature:
          platform: pytorch_torchscript
          inputs: [{name: image, datatype: FP32, shape: [-1, 28, 28]}]
          outputs: [{name: digit, datatype: INT64, shape: []}]
        """
    )
    assert config.signature == Signature(
        platform="pytorch_torchscript",
        inputs=(TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28)),),
        outputs=(TensorSpec(name="digit", datatype="INT64", shape=()),),
    )


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        pytest.param("7", "tensorSignature: 7 where a mapping", id="no mapping"),
        pytest.param("{input: []}", "input, which is not known", id="unknown key"),
        pytest.param("{platform: 7}", "platform: 7 where text", id="platform"),
        pytest.param("{inputs: 7}", "inputs that is no list", id="no list"),
        pytest.param("{outputs: [7]}", "outputs: 0: 7 where a mapping", id="no tensor"),
        pytest.param("{inputs: [{datatype: FP32, shape: []}]}", "without a name", id="no name"),
        pytest.param("{inputs: [{name: a, datatype: FP33, shape: []}]}", "FP33, which is none of BF16", id="datatype"),
        pytest.param("{inputs: [{name: a, datatype: FP32}]}", "shape: None where a list", id="no shape"),
        pytest.param("{inputs: [{name: a, datatype: FP32, shape: [-2]}]}", "shape: [-2] where a list", id="below -1"),
        pytest.param("{inputs: [{name: a, datatype: FP32, shape: [true]}]}", "shape: [True]", id="size is no number"),
        pytest.param("{inputs: [&t {name: a, datatype: FP32, shape: []}, *t]}", "two tensors of one name", id="twice"),
    ],
)
def test_signature_that_is_wrong_is_told(signature: str, problem: str) -> None:
    with pytest.raises(ArchiveError) as raised:
        ModelConfig.parse(f"tensorSignature: {signature}".encode())
    assert problem in str(raised.value)
