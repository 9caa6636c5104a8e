"""Watching the store may end; serving does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import watchfiles

from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.watching import reload_on_changes


class Manager:
    def __init__(self) -> None:
        self.changed: list[set[str]] = []

    async def reload_changed(self, names: set[str]) -> None:
        self.changed.append(names)


async def _watch(store: Path, *events: object, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What is reloaded when these changes are seen, or errors raised."""

    async def awatch(*args: Any, **kwargs: Any) -> AsyncIterator[set[tuple[int, str]]]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield {(1, str(event))}

    monkeypatch.setattr(watchfiles, "awatch", awatch)
    manager = Manager()
    await reload_on_changes(store, cast("ModelManager", manager))
    return manager.changed


async def test_change_inside_a_model_reloads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = (tmp_path / "m" / "deep" / "handler.py", tmp_path / "n.mar")
    assert await _watch(tmp_path, *events, monkeypatch=monkeypatch) == [{"m"}, {"n.mar"}]


async def test_change_of_the_store_itself_reloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _watch(tmp_path, tmp_path, monkeypatch=monkeypatch) == [set()]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(28, "No space left on device"), id="no watches left"),
        pytest.param(FileNotFoundError(2, "No such file or directory"), id="store taken away"),
        pytest.param(RuntimeError("error in underlying watcher"), id="the watcher's own"),
    ],
)
async def test_end_of_watching_is_an_error_line_and_nothing_more(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert await _watch(tmp_path, tmp_path / "m", error, monkeypatch=monkeypatch) == [{"m"}]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(error) in caplog.text
