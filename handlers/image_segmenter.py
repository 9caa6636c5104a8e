"""Default handler `image_segmenter`: an image in, the class of each of its pixels out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from ts.torch_handler import image_transforms
from ts.torch_handler.vision_handler import VisionHandler


def __getattr__(name: str) -> Any:
    if name != "T":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return image_transforms.torchvision_transforms()


class ImageSegmenter(VisionHandler):
    """For models that answer with ``{"out": [N, classes, H, W]}``, as torchvision's do."""

    image_processing = image_transforms.imagenet_evaluation()

    def postprocess(self, data: Mapping[str, torch.Tensor]) -> list[list[list[list[float]]]]:
        """Per image ``[H][W][2]``: the likeliest class of the pixel, as a float, and its probability."""
        probabilities, classes = F.softmax(data["out"], dim=1).max(dim=1)
        return torch.stack((classes.to(probabilities.dtype), probabilities), dim=3).tolist()


__all__ = ["ImageSegmenter", "VisionHandler"]
