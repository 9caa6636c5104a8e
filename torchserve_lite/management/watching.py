"""``--watch``: reloads models while their archives or folders in the store are being worked on."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from torchserve_lite.management.manager import ModelManager

log = logging.getLogger(__name__)


def check_watching() -> None:
    """ConfigurationError when ``--watch`` cannot do what it is to do. For the start: later would be too late."""
    try:
        importlib.import_module("watchfiles")
    except ImportError as error:
        raise ConfigurationError(
            "--watch needs the package watchfiles: pip install 'torchserve-lite[watch]'."
        ) from error


async def reload_on_changes(store: Path, manager: ModelManager, unless_in: Collection[Path] = ()) -> None:
    """Runs until cancelled. Changes that come together are one reload. Links of the store are followed.

    ``unless_in``: what the server itself writes, which may lie in the folder of a model.
    Watching may end by itself: the system has no watches left, or the store has been taken away. Serving goes on.
    """
    from watchfiles import Change, DefaultFilter, awatch

    log.info("Watching %s: a model is reloaded when its archive or folder changes.", store)
    store = store.resolve()
    is_worth_it = DefaultFilter()
    own = tuple(str(path.resolve()) for path in unless_in)

    def wanted(change: Change, path: str) -> bool:
        return is_worth_it(change, path) and not os.path.realpath(path).startswith(own)

    async def follow(watched: Collection[Path], name_of: Callable[[Path], str], *, recursive: bool) -> None:
        try:
            async for changes in awatch(*watched, watch_filter=wanted, debounce=400, recursive=recursive):
                await manager.reload_changed({name for _, path in changes if (name := name_of(Path(path)))})
        except (OSError, RuntimeError) as error:  # RuntimeError: watchfiles' own
            log.error("Watching %s has ended (%s). Models are served on; changes no longer reload them.", store, error)

    def name_in_store(path: Path) -> str:
        return "".join(path.relative_to(store).parts[:1])

    # The system tells of what is in a folder behind a link, but not of a file there.
    files = {link.resolve(): link.name for link in store.iterdir() if link.is_symlink() and link.is_file()}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow([store], name_in_store, recursive=True))
        if files:
            folders = {file.parent for file in files}
            tasks.create_task(follow(folders, lambda path: files.get(path, ""), recursive=False))
