"""What the tests of model stores share."""

from __future__ import annotations

from pathlib import Path

from torchserve_lite.archive.store import ModelStore


def folder_of(store: ModelStore) -> Path:
    """Of a store that has one: a server may also run without."""
    assert store.folder is not None
    return store.folder
