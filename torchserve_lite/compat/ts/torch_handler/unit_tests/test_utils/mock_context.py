"""``MockContext``: a context for a handler's unit test, as TorchServe's own tests have it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from ts.context import Context, RequestHeaders, RequestProcessor
from ts.metrics.metrics_store import MetricsStore
from ts.utils.util import get_yaml_config
from ts.version import __version__

_MODEL_DIR = Path(__file__).resolve().parents[1] / "models" / "tmp"


class MockContext(Context):
    """One request waits. Set ``explain`` to make it an explanation."""

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str | Path = _MODEL_DIR,
        model_file: str | None = "model.py",
        gpu_id: str | int | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        import torch

        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        manifest = {"model": {key: file for key, file in files.items() if file}}
        config = get_yaml_config(Path(model_dir, model_yaml_config_file)) if model_yaml_config_file else {}
        request_id = str(uuid.uuid4())
        metrics = MetricsStore({0: request_id}, model_name)
        # The GPU asked for, where there is one: the same test then runs on any machine.
        gpu = int(gpu_id) if gpu_id is not None and torch.cuda.is_available() else None
        super().__init__(model_name, str(model_dir), manifest, 1, gpu, __version__, True, metrics, config)
        self.request_ids = {0: request_id}
        self.request_processor = [RequestProcessor(RequestHeaders())]
        self.explain: Any = False

    def get_request_header(self, idx: int, key: str) -> Any:
        if key == "explain":
            return "True" if self.explain in (True, "True") else False
        return super().get_request_header(idx, key)
