"""The language model of ``torchserve-lite llm``: where it comes from, what runs it, and the model folder for it."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from torchserve_lite.archive.builder import ArchiveRequest, build, check_model_name
from torchserve_lite.archive.installation import how_to_install
from torchserve_lite.archive.source_code import is_installed
from torchserve_lite.engine.devices import count_gpus
from torchserve_lite.errors import ConfigurationError, Conflict

_PACKAGES = {"hf": "transformers", "vllm": "vllm", "trt_llm": "tensorrt_llm"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_RESPONSE_TIMEOUT = 1200  # seconds, as TorchServe's launcher has it: an answer may be long


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """``source``: a folder's path or an id of the hub. ``task``: the path of the first request that suits it."""

    source: str
    name: str
    engine: str
    task: str
    dtype: str
    batch_size: int
    startup_timeout: int
    options: Mapping[str, Any]

    @classmethod
    def chosen(cls, source: str, *, name: str, engine: str, **facts: Any) -> LanguageModel:
        """ConfigurationError where it could not be served."""
        check_model_name(name)
        engine = _engine(engine)
        folder = Path(source).expanduser()
        if folder.is_dir():
            return cls(source=str(folder.absolute()), name=name, engine=engine, task=_task_of(folder), **facts)
        if not _HUB_ID.fullmatch(source):
            raise _no_such_model(source)
        _check_hub(source)
        return cls(source=source, name=name, engine=engine, task="chat/completions", **facts)

    @property
    def handler(self) -> str:
        return "vllm_handler" if self.engine == "vllm" else "llm_handler"

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Its model-config.yaml."""
        common = {
            "minWorkers": 1,
            "maxWorkers": 1,
            "responseTimeout": _RESPONSE_TIMEOUT,
            "startupTimeout": self.startup_timeout,
        }
        if self.engine == "vllm":
            gpus = count_gpus(None)
            of_all_gpus = {"tensor_parallel_size": gpus} if gpus > 1 else {}
            options = {"dtype": self.dtype, **of_all_gpus, **self.options}
            handler: Mapping[str, Any] = {"model_path": self.source, "vllm_engine_config": options}
            return {**common, "asyncCommunication": True, "handler": handler}
        handler = {"model_path": self.source, "dtype": self.dtype, **self.options}
        return {**common, "continuousBatching": True, "batchSize": self.batch_size, "handler": handler}


@contextmanager
def write_folder(model: LanguageModel, store: Path) -> Iterator[None]:
    """While entered, the store has the model's folder, which names the weights and does not copy them."""
    folder = store / model.name
    if folder.exists():
        raise Conflict(f"{folder} already exists. Choose another --name, or another --model-store.")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = Path(scratch) / "model-config.yaml"
            config.write_text(yaml.safe_dump(dict(model.model_config), sort_keys=False), encoding="utf-8")
            request = ArchiveRequest(
                model_name=model.name,
                version="1.0",
                handler=model.handler,
                config_file=str(config),
                export_path=str(store),
                archive_format="no-archive",
            )
            build(request)
        yield
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _engine(asked: str) -> str:
    if asked == "auto":
        asked = "vllm" if is_installed("vllm") else "hf"
    package = _PACKAGES[asked]
    if not is_installed(package):
        raise ConfigurationError(
            f"The engine {asked} needs {package}, which is not installed: {how_to_install(package)}."
        )
    if asked == "trt_llm":
        raise ConfigurationError(
            "torchserve-lite does not drive TensorRT-LLM. Use --engine vllm or hf, or TensorRT-LLM's own trtllm-serve."
        )
    return asked


def _no_such_model(source: str) -> ConfigurationError:
    return ConfigurationError(
        f"--model {source}: there is no such folder, and it cannot be an id of the Hugging Face hub either."
    )


def _task_of(folder: Path) -> str:
    """By what transformers writes: an encoder makes vectors, and a text is a chat where there is a template for it."""
    try:
        architectures = json.loads((folder / "config.json").read_bytes()).get("architectures") or [""]
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"--model {folder} has no config.json. Name a folder as save_pretrained() of transformers writes it, with "
            "weights and tokenizer in it."
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if not re.search("ForCausalLM|ForConditionalGeneration|LMHead", str(architectures[0])):
        return "embeddings"
    tokenizer = folder / "tokenizer_config.json"
    has_template = (folder / "chat_template.jinja").is_file() or (
        tokenizer.is_file() and b'"chat_template"' in tokenizer.read_bytes()
    )
    return "chat/completions" if has_template else "completions"


def _check_hub(name: str) -> None:
    """Now and in one sentence, rather than later as the failure of a worker. Only the model's config.json is fetched,
    which the worker would fetch as well."""
    if not is_installed("huggingface_hub"):
        return
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    print(f"Looking for {name} at {constants.ENDPOINT}, as there is no such folder here.", file=sys.stderr)
    try:
        hf_hub_download(name, "config.json")
    except HFValidationError as error:
        raise _no_such_model(name) from error
    except GatedRepoError as error:
        raise ConfigurationError(
            f"--model {name}: its owner wants to know who uses it. Ask for access at {constants.ENDPOINT}/{name}, and "
            "set HF_TOKEN to a token of yours."
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"--model {name}: there is no such folder here, and no such model at {constants.ENDPOINT}. (One that is "
            "private needs HF_TOKEN.)"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).split(". ")[0].splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"--model {name}: there is no such folder here, and it cannot be fetched from {constants.ENDPOINT} "
            f"({reason}). Where there is a network, fetch it with: hf download {name} --local-dir DIR; copy DIR "
            "to this machine, and start with --model DIR. Proxies are set by HTTPS_PROXY, mirrors by HF_ENDPOINT."
        ) from error
