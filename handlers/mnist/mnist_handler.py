"""Handler of the MNIST sample: a picture of a digit in, the digit out."""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity
from ts.torch_handler.image_classifier import ImageClassifier

SIZE = (28, 28)
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

    def postprocess(self, data: Tensor) -> list[int]:
        return data.argmax(1).tolist()
