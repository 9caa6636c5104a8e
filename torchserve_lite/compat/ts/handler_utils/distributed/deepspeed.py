"""Loading a model into DeepSpeed's inference engine. Needs the package ``deepspeed``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import deepspeed

_CHECKPOINTS = "checkpoints.json"


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """The engine for ``model``, by the section ``deepspeed`` of model-config.yaml: ``config`` (a JSON file, required)
    and ``checkpoint`` (true: the weights are read by DeepSpeed from the model directory)."""
    model_dir = ctx.system_properties["model_dir"]
    options = ctx.model_yaml_config.get("deepspeed", {})
    if "config" not in options:
        raise ValueError("model-config.yaml has no 'deepspeed: config: FILE' that names DeepSpeed's configuration")
    config = json.loads(Path(model_dir, options["config"]).read_text())
    if options.get("checkpoint"):
        config["checkpoint"] = create_checkpoints_json(model_dir, os.path.join(model_dir, _CHECKPOINTS))
    return deepspeed.init_inference(model, config=config)


def create_checkpoints_json(model_path: str, checkpoints_json: str) -> str:
    """Writes the list of weight files below ``model_path`` as DeepSpeed wants it; gives the file's path."""
    files = sorted(str(path) for suffix in ("*.bin", "*.pt") for path in Path(model_path).rglob(suffix))
    Path(checkpoints_json).write_text(json.dumps({"type": "ds_model", "checkpoints": files, "version": 1.0}))
    return checkpoints_json
