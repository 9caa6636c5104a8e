"""Builds the archives of the cases from ``handlers/``, in the formats that TorchServe reads."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

HANDLERS = Path(__file__).parent / "handlers"
WrittenBy = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What goes into an archive: ``source`` is a file or folder of ``handlers/``, ``handler`` the manifest's entry.

    ``weights`` writes the serialized file named by ``serialized``, so that no binary file needs to be kept.
    """

    source: str
    handler: str = ""
    version: str = "1.0"
    model_file: str = ""
    serialized: str = ""
    weights: WrittenBy | None = None
    config: Mapping[str, Any] | None = None
    format: Literal["mar", "tgz", "folder"] = "mar"

    def manifest(self, name: str) -> dict[str, Any]:
        model = {
            "modelName": name,
            "serializedFile": self.serialized,
            "handler": self.handler or ("handler.py" if (HANDLERS / self.source).is_dir() else self.source),
            "modelFile": self.model_file,
            "modelVersion": self.version,
            "configFile": "model-config.yaml" if self.config is not None else "",
        }
        model = {key: value for key, value in model.items() if value}
        return {"createdOn": "01/02/2026 03:04:05", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}


def build(archive: Archive, name: str, store: Path) -> str:
    """Writes the archive into the model store; returns its file name."""
    folder = store / name
    stage(archive, name, folder)
    match archive.format:
        case "folder":
            return folder.name
        case "tgz":
            packed = pack_tgz(folder, store / f"{name}.tar.gz")
        case "mar":
            packed = pack_mar(folder, store / f"{name}.mar")
    shutil.rmtree(folder)
    return packed.name


def stage(archive: Archive, name: str, folder: Path) -> None:
    source = HANDLERS / archive.source
    if source.is_dir():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
    if archive.config is not None:
        (folder / "model-config.yaml").write_text(yaml.safe_dump(dict(archive.config)), encoding="utf-8")
    if archive.weights:
        archive.weights(folder / archive.serialized)
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(archive.manifest(name), indent=2), encoding="utf-8")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pack_mar(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files_of(folder):
            packed.write(path, path.relative_to(folder))
    return target


def pack_tgz(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as packed:
        for path in files_of(folder):
            packed.add(path, Path(folder.name) / path.relative_to(folder))
    return target


def weighted_sum_state(path: Path) -> None:
    import torch

    torch.save({"weights": torch.tensor([1.0, 10.0, 100.0])}, path)


def doubling_script(path: Path) -> None:
    import torch

    class Doubling(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows * 2

    written = io.BytesIO()
    torch.jit.save(torch.jit.trace(Doubling(), torch.zeros(1, 3)), written)
    path.write_bytes(written.getvalue())
