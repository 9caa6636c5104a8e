"""A BaseHandler whose ``__init__`` and ``initialize`` do not call their parents: the most common shape there is."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class WithoutSuper(BaseHandler):
    def __init__(self) -> None:
        self.initialized = False

    def initialize(self, context: Any) -> None:
        self.model = torch.nn.Threshold(0.0, -1.0)
        self.device = torch.device("cpu")
        self.initialized = True

    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([row.get("data") or row.get("body") for row in data], dtype=torch.float32)
