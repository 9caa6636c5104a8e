"""A TorchScript model, loaded and run by BaseHandler."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class Scripted(BaseHandler):
    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([row["body"] for row in data], dtype=torch.float32, device=self.device)
