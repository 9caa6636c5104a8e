"""TorchServe's own start from Python. Here the server is started by its command line."""

from __future__ import annotations

from typing import Any, NoReturn


def start(
    model_store: str | None = None,
    snapshot_file: str | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | None = None,
    disable_token: bool = False,
    models: str | None = None,
    enable_model_api: bool = False,
) -> NoReturn:
    _refuse("start", "Run `torchserve-lite start` (it takes --model-store and --models as `torchserve` does).")


def stop(wait: bool = True) -> NoReturn:
    _refuse("stop", "Run `torchserve-lite stop`.")


def register_model(model_name: str, url: str) -> NoReturn:
    _refuse("register_model", "POST to /models?url=... of the management address.")


def register_model_with_params(params: dict[str, Any]) -> NoReturn:
    _refuse("register_model_with_params", "POST to /models?url=... of the management address.")


def _refuse(name: str, advice: str) -> NoReturn:
    raise RuntimeError(f"ts.launcher.{name} controls TorchServe's Java server, which is not there. {advice}")
