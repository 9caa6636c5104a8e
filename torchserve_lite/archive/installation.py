"""From the name of a missing module to what has to be installed: one table for all who tell it."""

from __future__ import annotations

_EXTRAS = {
    "onnxruntime": "onnx",
    "safetensors": "safetensors",
    "torchvision": "vision",
    "transformers": "huggingface",
}

# Packages that are not called like the module, as far as handlers use them. A name is never guessed from the module's:
# the package of that name may be somebody else's.
_PACKAGES = {
    "Levenshtein": "levenshtein",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "diffusers": "diffusers",
    "accelerate": "accelerate",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "librosa": "librosa",
    "nltk": "nltk",
    "nvidia.dali": "nvidia-dali-cuda120",
    "pandas": "pandas",
    "pytesseract": "pytesseract",
    "requests": "requests",
    "scipy": "scipy",
    "sentence_transformers": "sentence-transformers",
    "sentencepiece": "sentencepiece",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "soundfile": "soundfile",
    "spacy": "spacy",
    "tensorrt_llm": "tensorrt-llm",
    "timm": "timm",
    "tokenizers": "tokenizers",
    "torch_geometric": "torch-geometric",
    "torchaudio": "torchaudio",
    "torchtext": "torchtext",
    "ultralytics": "ultralytics",
    "vllm": "vllm",
    "zmq": "pyzmq",
}


def how_to_install(module: str) -> str:
    """A whole sentence without its full stop, for ``module`` as it is imported (``cv2``, ``nvidia.dali``)."""
    parts = module.split(".")
    for known in (".".join(parts[:depth]) for depth in range(len(parts), 0, -1)):
        if known in _EXTRAS:
            return f"{known} comes with pip install 'torchserve-lite[{_EXTRAS[known]}]'"
        if known in _PACKAGES:
            return f"{known} comes with pip install {_PACKAGES[known]}"
    return (
        f"Install the package that has the module {module}, or add its file to the archive (--extra-files) "
        "if it is one of the model's own"
    )


def advice_on(error: BaseException | None) -> str:
    """How to mend a failure that a missing module has caused; "" when none has."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return how_to_install(error.name)
        error = error.__cause__
    return ""
