"""What model-config.yaml says about the model: its ``handler`` section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS = ("auto", "generate", "embed")
DTYPES = ("auto", "float32", "float16", "bfloat16")
POOLINGS = ("", "mean", "cls")


@dataclass(frozen=True)
class Settings:
    """How to load the model and how much it may hold. The names are vLLM's where there is one for the same."""

    model_path: str = ""  # a folder in the archive, any folder, or a hub id; empty: the archive itself
    served_model_name: str = ""  # what answers call the model; empty: the name that it is registered under
    task: str = "auto"  # by what the model's own config says it is
    dtype: str = "auto"  # on a GPU what the weights are stored in, on a CPU float32
    max_model_len: int = 0  # tokens of a prompt and its answer together; 0: what the model was made for
    max_num_seqs: int = 0  # texts that are generated at once; 0: batchSize
    chat_template: str = ""  # Jinja, or a file of it in the archive; empty: the tokenizer's own
    pooling: str = ""  # of embeddings; empty: as the model's 1_Pooling/config.json says, else mean
    normalize: bool = True  # embeddings have length 1
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("task", TASKS), ("dtype", DTYPES), ("pooling", POOLINGS)):
            value = getattr(self, name)
            if value not in allowed:
                choices = ", ".join(choice for choice in allowed if choice)
                raise ValueError(
                    f"{name} is {value!r} in the handler section of the configuration; it can be {choices}."
                )
        for name in ("max_model_len", "max_num_seqs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)} in the handler section; it cannot be negative.")


def read_settings(yaml_config: Mapping[str, Any] | None) -> Settings:
    """Unknown names are left alone. What an archive for ``vllm_handler`` says in ``vllm_engine_config`` counts as well,
    so that the same configuration serves where vLLM is not installed."""
    section = dict((yaml_config or {}).get("handler") or {})
    engine = dict(section.get("vllm_engine_config") or {})
    values = {"model_path": engine.get("model"), **engine, **section}
    names = values.get("served_model_name")
    if isinstance(names, list):
        values["served_model_name"] = names[0]  # vLLM takes several names; answers bear the first
    types = {"max_model_len": int, "max_num_seqs": int, "normalize": bool, "trust_remote_code": bool}
    known = {name: values[name] for name in Settings.__dataclass_fields__ if values.get(name) is not None}
    return Settings(**{name: types.get(name, str)(value) for name, value in known.items()})


def model_source(model_dir: Path, settings: Settings) -> str:
    """The folder of the archive that holds the model, or what ``model_path`` names outside of it."""
    if settings.model_path:
        inside = model_dir / settings.model_path
        return str(inside) if inside.is_dir() else settings.model_path
    if (model_dir / "config.json").is_file():
        return str(model_dir)
    raise FileNotFoundError(
        f"There is no model: {model_dir} has no config.json, and the handler section of model-config.yaml names none "
        "as model_path (a folder or an id of the Hugging Face hub)."
    )


def read_chat_template(model_dir: Path, settings: Settings) -> str | None:
    """Jinja: the text itself or that of the file. None leaves the tokenizer its own."""
    given = settings.chat_template
    if not given:
        return None
    if "{" in given:
        return given
    file = model_dir / given
    if not file.is_file():
        raise FileNotFoundError(f"chat_template is neither a Jinja template nor a file: {file} does not exist.")
    return file.read_text(encoding="utf-8")
