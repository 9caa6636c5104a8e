"""Default handler `dali_image_classifier`: a name kept for archives that use it; not served here.

Without NVIDIA DALI loading it fails with the package's own ImportError, with it by saying what to use instead.
"""

from __future__ import annotations

from typing import Any

import nvidia.dali  # noqa: F401 -- the missing package should say so itself
from ts.torch_handler.image_classifier import ImageClassifier


class DALIImageClassifier(ImageClassifier):
    def initialize(self, context: Any) -> None:
        raise RuntimeError(
            "torchserve-lite does not decode images with NVIDIA DALI. Archive the model with "
            "--handler image_classifier: it gives the same answers and needs no GPU for the images."
        )


__all__ = ["DALIImageClassifier"]
