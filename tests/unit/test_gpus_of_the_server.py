"""The GPUs that a server spreads its workers over: those that the driver names, or fewer where the operator says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_lite import server
from torchserve_lite.config.settings import Config, WorkerConfig
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.engine.devices import Devices

FOUR = '#!/bin/sh\nfor gpu in 0 1 2 3; do echo "GPU $gpu: Fake (UUID: GPU-$gpu)"; done\n'


@pytest.mark.parametrize(("number_of_gpu", "used"), [(None, 4), (0, 0), (2, 2), (4, 4), (9, 4)])
async def test_number_of_gpu_is_an_upper_bound(
    number_of_gpu: int | None, used: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text(FOUR)
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made: list[int] = []

    def devices(gpus: int) -> Devices:
        made.append(gpus)
        return Devices(gpus)

    monkeypatch.setattr(server, "Devices", devices)
    config = Config(workers=WorkerConfig(launcher="inline", number_of_gpu=number_of_gpu))
    async with server.serving_core(config, Shutdown(1.0)):
        assert made == [used]
