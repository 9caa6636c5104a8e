"""Labels from index_to_name.json, loaded by BaseHandler and applied by ``map_class_to_label``."""

from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label


class Labels(BaseHandler):
    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([row["body"] for row in data], dtype=torch.float32)

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        probabilities, classes = data.topk(2, dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())
