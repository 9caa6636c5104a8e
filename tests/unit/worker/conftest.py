"""Here ``import ts`` is ours, as in a worker."""

from __future__ import annotations

import pytest

from torchserve_lite import compat


@pytest.fixture(scope="session", autouse=True)
def ts_package() -> None:
    compat.install()
