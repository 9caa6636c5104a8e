"""Here ``import ts`` is ours, as in a worker."""

from __future__ import annotations

from torchserve_lite import compat

compat.install()
