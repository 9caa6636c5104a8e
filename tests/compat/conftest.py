"""Here `import ts` is ours, as in a worker, and no model has been loaded."""

from __future__ import annotations

import pytest

from torchserve_lite import compat

compat.install()


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker tells the envelope of V2 what is known of its model."""
    from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope

    for name in ("signature", "learned"):
        monkeypatch.setattr(KServev2Envelope, name, None)
    monkeypatch.setattr(KServev2Envelope, "output_names", "predict")
