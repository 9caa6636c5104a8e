"""What the machine offers workers: cores of a container, and GPUs by turns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
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
        pytest.param("many 100000", 8, id="quota that is no number"),
        pytest.param("100000 often", 8, id="period that is no number"),
        pytest.param("100000 0", 8, id="period of nothing"),
    ],
)
def test_quota_of_the_container_limits_the_cores(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("200000", 2)])
def test_quota_is_read_from_the_first_version_of_cgroups_too(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quota").write_text(quota + "\n")
    (tmp_path / "period").write_text("100000\n")
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(machine, "_CPU_QUOTA_OF_V1", (tmp_path / "quota", tmp_path / "period"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_without_a_quota_file_the_affinity_mask_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU_QUOTA", tmp_path / "missing")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("0", 1), ("0,2", 2), ("GPU-1f, GPU-2e", 2), ("-1", 0), ("0,", 1)]
)
def test_visible_gpus_are_counted_without_asking_the_driver(visible: str, count: int) -> None:
    assert count_gpus(visible) == count


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a script the machine's nvidia-smi."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return install


@pytest.mark.parametrize(
    ("listing", "count"),
    [
        pytest.param("echo 'GPU 0: One (UUID: x)'; echo 'GPU 1: Two (UUID: y)'", 2, id="two"),
        pytest.param("echo 'GPU 0: One (UUID: x)'; echo '  MIG 1g.5gb Device 0: (UUID: z)'", 1, id="divided"),
        pytest.param("echo 'No devices found.'", 0, id="none"),
        pytest.param("echo 'No devices were found'", 0, id="none, in an older driver's words"),
        pytest.param("true", 0, id="silence"),
        pytest.param("printf 'GPU 0: \\377\\n'", 1, id="a name that is no UTF-8"),
    ],
)
def test_driver_is_asked_when_nothing_is_said(
    listing: str, count: int, driver: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    driver(f"#!/bin/sh\n{listing}\n")
    assert count_gpus(None) == count
    assert not caplog.records


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus(None) == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("#!/bin/sh\nexec sleep 60\n", "gave no answer in 0.5 s", id="hangs"),
        pytest.param("#!/bin/sh\nsleep 60 &\nwait\n", "gave no answer in 0.5 s", id="hangs in a child"),
        pytest.param("#!/bin/sh\ntrap '' TERM\nexec >&-\nexec sleep 60\n", "no answer in 0.5 s", id="hangs closed"),
        pytest.param("#!/bin/sh\nexec yes\n", "gave no answer in 0.5 s|ended with code", id="prints without end"),
        pytest.param("#!/bin/sh\necho 'Driver/library mismatch'\nexit 18\n", "code 18 .'Driver/library", id="fails"),
        pytest.param("#!/bin/sh\necho 'Failed to initialize NVML'\n", "says: 'Failed to init", id="fails with code 0"),
        pytest.param("#!/bin/sh\nprintf '\\033[2J\\377'\n", r"says: '\\x1b\[2J\ufffd'", id="prints rubbish"),
        pytest.param("#!/bin/sh\necho '{\"gpus\": 2}'\n", 'says: .{"gpus": 2}', id="is another program"),
        pytest.param("#!/bin/sh\nkill -SEGV $$\n", "ended with code -11 .''\\)", id="crashes"),
        pytest.param("#!/nowhere/sh\n", "No such file or directory", id="has no interpreter"),
        pytest.param("\x7fELF not a program", "Exec format error", id="is no program"),
    ],
)
def test_driver_that_misbehaves_means_no_gpus_and_a_warning(
    script: str,
    reason: str,
    driver: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(machine, "_DRIVER_ANSWERS_IN", 0.5)
    driver(script)
    assert count_gpus(None) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.search(f"models run on the CPU: .*{reason}", caplog.text)


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
