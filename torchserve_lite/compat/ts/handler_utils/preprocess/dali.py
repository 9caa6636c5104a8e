"""A DALI pipeline as an archive brings it. Needs NVIDIA's package ``nvidia-dali``."""

from __future__ import annotations

import os
from typing import Any

from nvidia.dali.pipeline import Pipeline


def get_dali_pipeline(ctx: Any) -> Pipeline:
    """The serialized pipeline that the section ``dali`` of model-config.yaml names, with the sizes given there."""
    options = ctx.model_yaml_config["dali"]
    sizes = {name: options[name] for name in ("batch_size", "num_threads", "device_id", "seed") if name in options}
    path = os.path.join(ctx.system_properties["model_dir"], options["pipeline_file"])
    return Pipeline.deserialize(filename=path, **sizes)
