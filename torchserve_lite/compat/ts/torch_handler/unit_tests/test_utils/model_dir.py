"""Filling the model directory of a handler's unit test."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlparse


def download_model(model_url: str, model_dir: Path) -> None:
    """Fetches the file unless it is there already."""
    target = Path(model_dir) / Path(urlparse(model_url).path).name
    if not target.exists():
        urllib.request.urlretrieve(model_url, target)


def copy_files(src_dir: Path, dst_dir: Path, files: dict[str, str]) -> None:
    """``files``: names in ``src_dir`` and what they are called in ``dst_dir``."""
    for source, target in files.items():
        shutil.copy(Path(src_dir) / source, Path(dst_dir) / target)
