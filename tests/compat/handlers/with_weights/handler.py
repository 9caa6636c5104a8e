"""An eager model with a state dict, loaded by BaseHandler."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler


class WithWeights(BaseHandler):
    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([row["body"] for row in data], dtype=torch.float32, device=self.device)
