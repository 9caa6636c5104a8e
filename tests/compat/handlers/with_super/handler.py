"""A BaseHandler that calls its parents throughout; the network comes from the archive's model file."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class WithSuper(BaseHandler):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = ["init"]

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.steps.append(f"initialized={self.initialized} training={self.model.training} device={self.device}")

    def preprocess(self, data: list[Any]) -> torch.Tensor:
        rows = [row.get("data") or row.get("body") for row in data]
        return super().preprocess(rows).float()

    def inference(self, data: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = super().inference(data, *args, **kwargs)
        self.steps[1:] = [*self.steps[1:2], f"inference_mode={result.is_inference()}"]
        return result

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        return [{"sum": row, "steps": self.steps} for row in super().postprocess(data)]
