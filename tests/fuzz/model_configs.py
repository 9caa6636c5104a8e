"""model-config.yaml of any content: a config that reaches the worker as it was written, or one ArchiveError."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import spec_of
from tests.fuzz.target import Choices, Target
from torchserve_lite.archive.config_message import from_message, to_message
from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.store import Archive
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import InvalidArchive
from torchserve_lite.ipc.messages import Load, decode_to_worker, encode
from torchserve_lite.management.specs import build_spec, features_to_come

_KEYS = (
    "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout",
    "clientTimeoutInMills", "maxRetryTimeoutInSec", "jobQueueSize", "deviceType", "deviceIds", "parallelType",
    "parallelLevel", "torchrun", "useVenv", "useJobTicket", "asyncCommunication", "continuousBatching",
    "sequenceBatching", "sequenceMaxIdleMSec", "nproc-per-node", "nnodes", "handler", "pt2", "<<", "model-config.yaml",
)  # fmt: skip
_SCALARS = (
    "1", "0", "-1", "4", "true", "~", "gpu", "'x'", "[0, 1]", "{}", "99999999999999999999999", "1e999", ".nan", "-.inf",
    "0o9", "0x", "1_000", "1:99:99", "2001-02-30", "2001-01-01T00:00:00+99:99", "2001-12-14 21:59:43.1 -5", "!!set {a}",
    "!!binary aGk=", "!!binary '%'", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object:os.system x", "!!int ''",
    "!!bool maybe", "!!float x", "!!timestamp x", "!!null x", "!own x", "!!str 1", "&a [1]", "*a", "&a {b: *a}",
    '"\\ud800"',
    '"\\0"', "? [1]\n  : 2", "9" * 5000, "0x" + "f" * 5000, "1" + ":1" * 5000, "18446744073709551616",
    "!!set {[1], 2}", "=", "0b", "1.", "+.inf", "!!seq {}",
)  # fmt: skip


def check(data: bytes) -> None:
    """The first byte chooses: the file's content as it comes, or a file made of the keys that mean something."""
    chosen = Choices(data[:1]).below(2)
    content = _made_of_keys(Choices(data[1:])) if chosen else data[1:]
    try:
        config = ModelConfig.parse(content)
    except ArchiveError as error:
        assert str(error).encode()
        return
    assert all(warning.encode() for warning in config.warnings)
    features_to_come(config)
    try:
        spec = _spec_of(config)
    except InvalidArchive:
        return
    _check_spec(spec)
    _check_arrival(config.raw)


def _spec_of(config: ModelConfig) -> ModelSpec:
    folder = Path(tempfile.gettempdir())
    manifest = Manifest(model_name="m", handler="h.py")
    archive = Archive(url="m.mar", path=folder, scratch=folder, digest="", manifest=manifest, config=config)
    return build_spec(archive, ServingOptions(url="m.mar"), None, WorkerConfig(), 1)


def _check_spec(spec: ModelSpec) -> None:
    assert 0 <= spec.min_workers <= spec.max_workers
    assert spec.batch.size >= 1
    assert spec.batch.delay >= 0
    assert spec.queue_size >= 1
    assert spec.response_timeout > 0
    assert spec.startup_timeout > 0


def _check_arrival(raw: Any) -> None:
    load = Load(
        spec=spec_of(model_config=to_message(raw)),
        model_dir=".",
    )
    arrived = decode_to_worker([bytearray(piece) for piece in encode(load)])
    assert isinstance(arrived, Load)
    found, wanted = _shown(from_message(arrived.spec.model_config)), _shown(raw)
    assert found == wanted, (found, wanted)


def _shown(value: Any) -> str:
    """What can be compared: NaN is not equal to itself, True is equal to 1, and a set has no order."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_shown, value))})"
    return f"set({sorted(map(_shown, value))})" if isinstance(value, set) else repr(value)


def _made_of_keys(choices: Choices) -> bytes:
    lines = []
    for _ in range(choices.below(8) + 1):
        indent = "  " * choices.below(3)
        value = choices.text() if choices.chance(4) else choices.one_of(_SCALARS)
        lines.append(f"{indent}{choices.one_of(_KEYS)}: {value}")
    return "\n".join(lines).encode("utf-8", "replace")


TARGETS = {
    "yaml": Target(
        check=check,
        seeds=[
            b"\0minWorkers: 1\nmaxWorkers: 4\nbatchSize: 8\nmaxBatchDelay: 100\nhandler:\n  channels: [1, 2]\n",
            b"\0a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}, e: !!set {x, y}}\n? complex\n: 2001-12-14t21:59:43.10-05:00\n",
            b"\0torchrun:\n  nproc-per-node: 2\nparallelType: pp\ndeviceType: gpu\ndeviceIds: [0, 1]\n",
            b"\0%YAML 1.1\n---\na: |\n  text\n  more\nb: >-\n  folded\n...\n",
            *[bytes([1, 3]) + bytes([0, i % 256, i // 3, i % 7]) * 8 for i in range(0, 250, 9)],
        ],
        words=[key.encode() + b": " for key in _KEYS] + [value.encode()[:60] for value in _SCALARS],
    )
}
