"""What the machine offers workers: cores of a container, and GPUs by turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import spec_of
from torchserve_lite.core.models import DevicePolicy, ModelKey
from torchserve_lite.engine import devices as machine
from torchserve_lite.engine.devices import Devices, count_gpus, usable_cores
from torchserve_lite.errors import ConfigurationError


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        pytest.param("max 100000", 8, id="no quota"),
        pytest.param("200000 100000", 2, id="whole cores"),
        pytest.param("150000 100000", 2, id="rounded up"),
        pytest.param("10000 100000", 1, id="a tenth of a core"),
        pytest.param("3200000 100000", 8, id="more than there are"),
        pytest.param("nonsense", 8, id="unreadable"),
    ],
)
def test_quota_of_the_container_limits_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_without_a_quota_file_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "missing")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("0", 1), ("0,2", 2), ("GPU-1f, GPU-2e", 2), ("-1", 0), ("0,", 1)]
)
def test_visible_gpus_are_counted_without_asking_the_driver(visible: str, count: int) -> None:
    assert count_gpus(visible) == count


def test_driver_is_asked_when_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: One (UUID: x)'\necho 'GPU 1: Two (UUID: y)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert count_gpus(None) == 2
    tool.unlink()
    assert count_gpus(None) == 0


def test_workers_of_all_models_take_gpus_by_turns() -> None:
    devices = Devices(3)
    one, other = spec_of(key=ModelKey("one", "1.0")), spec_of(key=ModelKey("other", "1.0"))
    assert [devices.assign(spec) for spec in (one, one, other, one)] == [0, 1, 2, 0]


def test_models_own_device_ids_are_taken_by_turns_of_its_own() -> None:
    devices = Devices(8)
    picky = spec_of(device=DevicePolicy(ids=(3, 5)))
    other = spec_of(key=ModelKey("other", "1.0"), device=DevicePolicy(ids=(3, 5)))
    assert [devices.assign(spec) for spec in (picky, other, picky, picky)] == [3, 3, 5, 3]


@pytest.mark.parametrize(
    ("gpus", "policy"),
    [
        pytest.param(0, DevicePolicy(), id="no gpu there"),
        pytest.param(0, DevicePolicy(type="gpu", ids=(1,)), id="no gpu for one that wants it"),
        pytest.param(4, DevicePolicy(type="cpu"), id="cpu wanted"),
        pytest.param(4, DevicePolicy(type="cpu", ids=(1,)), id="cpu wanted, ids do not matter"),
    ],
)
def test_worker_runs_on_the_cpu(gpus: int, policy: DevicePolicy) -> None:
    assert Devices(gpus).assign(spec_of(device=policy)) is None


def test_device_id_beyond_the_gpus_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"names \[2, 9\], but only GPUs 0 to 1") as error:
        Devices(2).check(spec_of(device=DevicePolicy(ids=(1, 2, 9))))
    assert "number_of_gpu" in str(error.value)
