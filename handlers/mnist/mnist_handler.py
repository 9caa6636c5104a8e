"""Handler of the MNIST sample: a picture of a digit in, the digit out."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity
from ts.torch_handler.image_classifier import ImageClassifier
from ts.utils import util

SIZE = (28, 28)
SHAPE = (1, *SIZE)  # of a picture's tensor
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of MNIST's training set; train.py normalises with the same figures
SCALE = numpy.float32(1 / (255 * PIXEL_STD))  # bytes to normalised pixels, in two steps for speed
SHIFT = numpy.float32(PIXEL_MEAN / PIXEL_STD)


class MNISTDigitClassifier(ImageClassifier):
    """Answers with the bare digit where the classifier it extends gives labels and probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.profiler_args = {"activities": [ProfilerActivity.CPU], "record_shapes": True}

    def image_processing(self, image: Image.Image) -> Tensor:
        """The picture as the network was trained on it; colour and other sizes are taken too."""
        grey = image if image.mode == "L" else image.convert("L")
        fitting = grey if grey.size == SIZE else grey.resize(SIZE, Image.Resampling.BILINEAR)
        pixels = numpy.frombuffer(fitting.tobytes(), numpy.uint8).reshape(1, *SIZE) * SCALE
        pixels -= SHIFT
        return torch.from_numpy(pixels)

    def _stack_images(self, images: list[Tensor]) -> Any:
        """Lists of numbers come as they are: one that is no picture of this size is its sender's mistake, and the
        network would fail for the whole batch."""
        for row, image in enumerate(images):
            if tuple(image.shape) != SHAPE:
                raise _refusal_of(
                    row,
                    f"The numbers have the shape {list(image.shape)}; a digit is {list(SHAPE)}, normalised, or a "
                    "picture in a file or in base64.",
                )
        return super()._stack_images(images)

    def postprocess(self, data: Tensor) -> list[int]:
        return data.argmax(1).tolist()


def _refusal_of(row: int, message: str) -> util.PredictionException:
    """Of the one request, where the server can tell it from the others of its batch; TorchServe refuses them all."""
    if hasattr(util, "InvalidRow"):
        return util.InvalidRow(row, message)
    return util.PredictionException(message, 400)
