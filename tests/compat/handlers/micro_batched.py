"""Micro batching: ``handle`` is an object that runs the three steps in threads, a slice at a time."""

from typing import Any

import torch
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class MicroBatched(BaseHandler):
    def __init__(self) -> None:
        self.slices: list[int] = []
        self.handle = MicroBatching(self, micro_batch_size=2)

    def initialize(self, context: Any) -> None:
        options = context.model_yaml_config["micro_batching"]
        self.handle.parallelism = options["parallelism"]
        self.handle.micro_batch_size = options["micro_batch_size"]
        self.model, self.device = torch.nn.Identity(), torch.device("cpu")
        self.initialized = True

    def preprocess(self, data: list[Any]) -> torch.Tensor:
        return torch.tensor([[float(row["body"])] for row in data])

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        return [{"value": row[0], "slice": len(data)} for row in data.tolist()]
