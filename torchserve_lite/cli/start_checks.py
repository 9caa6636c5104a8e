"""What a start needs is looked at before anything is loaded: what is missing is told in one sentence."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from torchserve_lite.config.settings import Config

_MODELS_COME_IN = 300.0  # seconds; an image with a large model takes its time to be fetched
_FEWEST_DESCRIPTORS = 64  # what an idle server and one worker need, and some clients


def check_folders(environ: Mapping[str, str]) -> None:
    """The two folders that every process works with. Before all else: even starting a process needs them."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigurationError("The current folder no longer exists. Change to one that does.") from error
    temporary_folder(environ)


def temporary_folder(environ: Mapping[str, str]) -> Path:
    """Python quietly takes another one when TMPDIR cannot be written; models of any size are unpacked there."""
    named = environ.get("TMPDIR")
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"No temporary folder can be written ({named or 'TMPDIR is not set'}; /tmp and others neither). "
            "Set TMPDIR to one that can and has room: archives are unpacked there."
        ) from error
    if named and os.path.abspath(named) != str(folder):
        raise ConfigurationError(
            f"TMPDIR={named} is not a folder that can be written. Name one that can; archives are unpacked there."
        )
    return folder


def check_descriptors() -> None:
    """The soft limit is raised later. Beyond the hard one, libraries end the process with messages of their own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < _FEWEST_DESCRIPTORS:
        raise ConfigurationError(
            f"Only {hard} files and connections may be open at once; a server needs {_FEWEST_DESCRIPTORS} at least. "
            "Raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker."
        )


def await_models(arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Where KServe brings the models as an image (``oci://``), their folder is a link that is made while we start.

    Returns when what the arguments name is there, or a while later: who looks for it then says what is missing.
    """
    if environ.get("MODEL_INIT_MODE") != "async":
        return
    named = [Path(path) for path in (arguments.ts_config, arguments.model_store) if path]
    deadline = time.monotonic() + _MODELS_COME_IN
    missing: list[Path] = []
    while (still := [path for path in named if not path.exists()]) and time.monotonic() < deadline:
        if still != missing:
            missing = still
            print(f"waiting: {', '.join(str(path) for path in missing)} (MODEL_INIT_MODE=async)", flush=True)
        time.sleep(0.1)


def preload() -> None:
    """Starts the process that workers are forked from; returns at once. ConfigurationError when that cannot be."""
    from torchserve_lite.ipc.preloading import start_preloading

    try:
        start_preloading()
    except OSError as error:
        raise ConfigurationError(
            f"The process that workers are forked from cannot be started: {error.strerror}. "
            "Look at the limits of this user and service (ulimit -a)."
        ) from error


def check_settings(config: Config) -> None:
    """What the settings name must be there."""
    _check_store(config, "model_store", config.models.store)
    _check_store(config, "workflow_store", config.models.workflow_store)
    if config.workers.python and shutil.which(config.workers.python) is None:
        source = config.sources.get("python", "configuration")
        raise ConfigurationError(f"python={config.workers.python} ({source}) is not a program that can be run.")


def check_configured(config: Config, environ: Mapping[str, str]) -> None:
    check_settings(config)
    if config.models.watch:
        from torchserve_lite.management.watching import check_watching

        check_watching()
    for variable, folder in (("LOG_LOCATION", config.logs.folder), ("METRICS_LOCATION", config.logs.metrics_folder)):
        if folder is not None and environ.get(variable):
            _check_log_folder(variable, folder)


def _check_store(config: Config, key: str, store: Path | None) -> None:
    """Whether or not models are loaded from it now: a server without its store looks alive and can serve nothing."""
    if store is None:
        return
    try:
        os.scandir(store).close()
        os.stat(store / ".")  # a folder that may be listed, but in which no file may be looked at
    except OSError as error:
        source = config.sources.get(key, "configuration")
        raise ConfigurationError(
            f"{key}={store} ({source}) cannot be read: {error.strerror}. "
            "Name a folder that exists and that this user may read; it holds the archives."
        ) from error


def _check_log_folder(variable: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigurationError(
            f"{variable}={folder} cannot be written: {error.strerror}. Name a folder that can, or leave it unset."
        ) from error
