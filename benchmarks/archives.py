"""The archives both servers get, byte for byte the same files."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model's files lie and what its manifest names."""

    files: tuple[Path, ...]
    handler: str
    model_file: str = ""
    serialized: str = ""

    def manifest(self, model: str) -> dict[str, object]:
        entries = {
            "modelName": model,
            "serializedFile": self.serialized,
            "handler": self.handler,
            "modelFile": self.model_file,
            "modelVersion": "1.0",
        }
        entries = {key: value for key, value in entries.items() if value}
        return {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "model": entries, "archiverVersion": "0.12.0"}


MNIST = REPOSITORY / "handlers" / "mnist"
SOURCES = {
    "noop": Source(files=(HERE / "noop" / "noop_handler.py",), handler="noop_handler.py"),
    "mnist": Source(
        files=(MNIST / "mnist_handler.py", MNIST / "mnist.py", MNIST / "mnist_cnn.pt"),
        handler="mnist_handler.py",
        model_file="mnist.py",
        serialized="mnist_cnn.pt",
    ),
}


def build_archives(store: Path) -> None:
    """Writes ``noop.mar`` and ``mnist.mar`` into the model store."""
    store.mkdir(parents=True, exist_ok=True)
    for model, source in SOURCES.items():
        with zipfile.ZipFile(store / f"{model}.mar", "w", zipfile.ZIP_DEFLATED) as packed:
            for file in source.files:
                packed.write(file, file.name)
            packed.writestr("MAR-INF/MANIFEST.json", json.dumps(source.manifest(model), indent=2))


def unpack(store: Path, model: str, target: Path) -> Path:
    """The archive's files in a folder, for the plain loop that no server stands in front of."""
    with zipfile.ZipFile(store / f"{model}.mar") as packed:
        packed.extractall(target)
    return target
