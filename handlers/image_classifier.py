"""Default handler `image_classifier`: an image in, its most likely classes with their probabilities out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from ts.torch_handler import image_transforms
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


def __getattr__(name: str) -> Any:
    """``transforms``, which handlers import from here: torchvision's where it works, else ours of the same names."""
    if name != "transforms":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return image_transforms.torchvision_transforms()


class ImageClassifier(VisionHandler):
    """For networks trained as ImageNet's usually are; set ``image_processing`` for others."""

    topk = 5
    image_processing = image_transforms.imagenet_evaluation()

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    def postprocess(self, data: torch.Tensor) -> list[dict[str, float]]:
        """The ``topk`` best classes, best first; all of them where the model has fewer."""
        probabilities = F.softmax(data, dim=1)
        best, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())


__all__ = ["F", "ImageClassifier", "VisionHandler", "map_class_to_label"]
