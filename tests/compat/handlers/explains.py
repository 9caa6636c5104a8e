"""Explanations by BaseHandler's own route: preprocess, then ``get_insights`` with inputs and target of the request."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class Explains(BaseHandler):
    def initialize(self, context: Any) -> None:
        self.model, self.device, self.initialized = torch.nn.Identity(), torch.device("cpu"), True

    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([[1.0, 2.0]] * len(data))

    def get_insights(self, tensor_data: torch.Tensor, raw_data: Any, target: Any = 0) -> list[Any]:
        told = raw_data.decode() if isinstance(raw_data, bytearray) else raw_data
        return [{"tensor": tensor_data.tolist(), "inputs": told, "target": plain(target)}]


def plain(target: Any) -> Any:
    return target.decode() if isinstance(target, bytearray) else target
