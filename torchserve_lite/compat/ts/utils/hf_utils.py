"""Fetching a model's files from the Hugging Face hub. Needs the package ``huggingface_hub``."""

from __future__ import annotations

from huggingface_hub import snapshot_download

_FILES = ["*.json", "*.pt", "*.bin", "*.txt", "*.model", "*.pth", "*.safetensors", "original/*"]


def download_model(model_id: str, revision: str, model_path: str = ".cache", use_auth_token: bool | str = True) -> str:
    """Downloads weights, configuration and tokenizer below ``model_path``; gives the folder they are in."""
    return snapshot_download(
        repo_id=model_id, revision=revision, cache_dir=model_path, token=use_auth_token, allow_patterns=_FILES
    )
