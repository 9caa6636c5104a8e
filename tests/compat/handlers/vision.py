"""A VisionHandler with image processing of its own: raw pictures, base64 text and lists all become tensors."""

from typing import Any

import numpy
import torch
from PIL import Image
from ts.torch_handler.vision_handler import VisionHandler


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(numpy.array(picture.convert("L"), dtype=numpy.float32))


class Vision(VisionHandler):
    image_processing = staticmethod(to_tensor)

    def initialize(self, context: Any) -> None:
        self.model, self.device, self.initialized = torch.nn.Identity(), torch.device("cpu"), True

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        return [{"shape": list(row.shape), "sum": row.sum().item()} for row in data]
