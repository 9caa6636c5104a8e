"""Default handler `object_detector`: an image in, labelled boxes with their scores out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from ts.torch_handler import image_transforms
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


def __getattr__(name: str) -> Any:
    """Names that handlers import from here; looked up late, since few machines need torchvision for them."""
    if name == "transforms":
        return image_transforms.torchvision_transforms()
    if name == "version":
        return importlib.import_module("packaging.version")
    if name == "torchvision_version":
        return importlib.import_module("torchvision").__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ObjectDetector(VisionHandler):
    """For models that answer with ``boxes``, ``labels`` and ``scores`` per image, as torchvision's detectors do."""

    threshold = 0.5
    image_processing = image_transforms.Compose([image_transforms.ToTensor()])

    def _stack_images(self, images: list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Detectors take a list as well, and photographs seldom have the same size."""
        if len({image.shape for image in images}) == 1:
            return super()._stack_images(images)
        return [image if self.device is None else image.to(self.device) for image in images]

    def inference(self, data: torch.Tensor | list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, torch.Tensor):
            return super().inference(data, *args, **kwargs)
        with torch.inference_mode():
            return self.model(data, *args, **kwargs)

    def postprocess(self, data: Any) -> list[list[dict[str, Any]]]:
        """A scripted detector answers with its (empty) losses as well: ``(losses, detections)``."""
        detections = data[1] if isinstance(data, tuple) else data
        return [self._detections(found) for found in detections]

    def _detections(self, found: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
        sure = found["scores"] >= self.threshold
        boxes, labels, scores = (found[name][sure].tolist() for name in ("boxes", "labels", "scores"))
        labelled = map_class_to_label([[box] for box in boxes], self.mapping, [[label] for label in labels])
        return [{**box, "score": score} for box, score in zip(labelled, scores, strict=True)]


__all__ = ["ObjectDetector", "VisionHandler", "map_class_to_label"]
