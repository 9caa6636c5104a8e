"""What the archive says about its model: model-config.yaml's ``handler`` section, or an older setup_config.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("sequence_classification", "token_classification", "question_answering", "text_generation")
SAVE_MODES = ("pretrained", "torchscript")


@dataclass(frozen=True)
class Settings:
    """How to load the model and what to do with it. The names are those of TorchServe's BERT example."""

    mode: str = "sequence_classification"
    save_mode: str = "pretrained"
    model_name: str = ""  # a hub id or a folder, asked when the archive itself holds no model or no tokenizer
    max_length: int = 150  # of the input, in tokens; longer texts are cut
    do_lower_case: bool | None = None  # as the tokenizer's own files say
    captum_explanation: bool = True
    generation: Mapping[str, Any] = field(default_factory=lambda: {"max_new_tokens": 50, "do_sample": False})

    def __post_init__(self) -> None:
        _check("mode", self.mode, MODES)
        _check("save_mode", self.save_mode, SAVE_MODES)

    @property
    def traced(self) -> bool:
        return self.save_mode == "torchscript"


def read_settings(model_dir: Path, yaml_config: Mapping[str, Any] | None) -> Settings:
    """The archive's settings; model-config.yaml wins over setup_config.json, and unknown names are left alone."""
    return settings_of({**_setup_config(model_dir), **((yaml_config or {}).get("handler") or {})})


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Settings from parsed YAML or JSON, where old archives have numbers and truth values as text."""
    readers: dict[str, Callable[[Any], Any]] = {
        "max_length": int,
        "do_lower_case": _truth,
        "captum_explanation": _truth,
        "generation": dict,
    }
    known = Settings.__dataclass_fields__
    return Settings(**{name: readers.get(name, str)(value) for name, value in values.items() if name in known})


def _setup_config(model_dir: Path) -> dict[str, Any]:
    file = model_dir / "setup_config.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _truth(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r} in the handler's settings; it can be {', '.join(allowed)}.")
