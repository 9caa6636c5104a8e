"""Default handler `densenet_handler`: a tensor or an image in, the network's output as a tensor out.

TorchServe's unpickles each request's body (``torch.load``), which lets any client run code in the worker. This one
takes tensors as nested lists of numbers in JSON, and images; a body made by ``torch.save`` is refused.
"""

from __future__ import annotations

import torch
from ts.torch_handler import image_transforms
from ts.torch_handler.vision_handler import VisionHandler


class DenseNetHandler(VisionHandler):
    """Answers each request with its row of the output, as ``torch.save`` writes it."""

    image_processing = image_transforms.imagenet_evaluation()

    def postprocess(self, data: torch.Tensor) -> list[torch.Tensor]:
        return [row.clone() for row in data.split(1)]


__all__ = ["DenseNetHandler"]
