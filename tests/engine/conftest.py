"""What starts workers is there before the first test, so that a test can tell its own processes from it."""

from __future__ import annotations

import pytest

from torchserve_lite.ipc.preloading import start_preloading


@pytest.fixture(scope="session", autouse=True)
def starter() -> None:
    start_preloading()
