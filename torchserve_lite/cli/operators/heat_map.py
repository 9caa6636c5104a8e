"""An image's explanation as an image: red for what speaks for the answer, blue for what speaks against it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

_SMALLEST_SIDE = 280  # pixels; attributions of small images would hardly be seen


def write_heat_map(file: Path, data: bytes, attributions: Any) -> Path | None:
    """Writes ``4.explanation.png`` beside ``4.png``. None when the file is no image, or the answer no attributions."""
    import numpy
    from PIL import Image, UnidentifiedImageError

    try:
        Image.open(io.BytesIO(data)).close()
        values = numpy.squeeze(numpy.asarray(attributions, dtype=numpy.float64))
    except (UnidentifiedImageError, OSError, ValueError, TypeError):
        return None
    if values.ndim == 3 and values.shape[0] in (1, 3, 4):  # channel first
        values = values.sum(axis=0)
    if values.ndim != 2 or not numpy.isfinite(values).all():
        return None
    strength = values / (numpy.abs(values).max() or 1)
    pale = 255 * (1 - numpy.abs(strength))
    red = numpy.where(strength > 0, 255, pale)
    blue = numpy.where(strength < 0, 255, pale)
    image = Image.fromarray(numpy.stack([red, pale, blue], axis=-1).round().astype(numpy.uint8))
    scale = max(1, -(-_SMALLEST_SIDE // min(image.size)))
    target = file.with_name(f"{file.stem}.explanation.png") if file.name != "-" else Path("explanation.png")
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(target)
    return target
