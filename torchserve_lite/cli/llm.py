"""``torchserve-lite llm``: one language model, served in one command. TorchServe's is ``python -m ts.llm_launcher``,
whose flags it takes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_lite.cli.first_process import behind_first_process
from torchserve_lite.cli.start import prepare, serve_configured

if TYPE_CHECKING:
    from torchserve_lite.config.settings import Config

FAMILIES = ("--engine.", "--vllm_engine.", "--trt_llm_engine.")
ENGINES = ("auto", "hf", "vllm", "trt_llm")

EXAMPLES = (
    "torchserve-lite llm --model ./my-model",
    "torchserve-lite llm --model Qwen/Qwen2.5-0.5B-Instruct --name qwen --port 9000 --disable-token-auth",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        "--model_id",
        "--model-id",
        required=True,
        metavar="DIR_OR_ID",
        help="a folder as transformers saves it, or an id of the Hugging Face hub",
    )
    parser.add_argument(
        "--name",
        "--model_name",
        "--model-name",
        default="model",
        metavar="NAME",
        help="what clients call it; default: %(default)s",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs it: hf (transformers), vllm, or auto: vllm where it is installed, else hf",
    )
    parser.add_argument("--dtype", default="auto", help="of the weights: auto, bfloat16, float16, float32")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="most texts at once, with hf")
    parser.add_argument("--port", type=int, help="where clients ask; default: 8080, or as configured")
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1, or as configured")
    parser.add_argument("--ts-config", type=Path, metavar="FILE", help="configuration file; default: config.properties")
    parser.add_argument(
        "--disable-token-auth", "--disable_token_auth", "--dt", action="store_true", help="clients need no token"
    )
    parser.add_argument(
        "--startup-timeout",
        "--startup_timeout",
        type=int,
        default=1200,
        metavar="SECONDS",
        help="longest that loading may take; default: %(default)s",
    )
    parser.add_argument(
        "--model-store",
        "--model_store",
        type=Path,
        metavar="DIR",
        help="where the model's folder is written while it is served; default: a temporary folder",
    )
    parser.epilog = (
        "--engine.OPTION VALUE (or TorchServe's --vllm_engine.OPTION) sets any option of the engine: "
        "--engine.max_model_len 4096"
    )


def run(arguments: argparse.Namespace) -> int:
    return behind_first_process(lambda: _serve(arguments))


def _serve(arguments: argparse.Namespace) -> int:
    prepare(os.environ)
    from torchserve_lite.cli.display import display_for
    from torchserve_lite.cli.llm_examples import first_requests
    from torchserve_lite.cli.llm_model import LanguageModel, write_folder

    model = LanguageModel.chosen(
        arguments.model,
        name=arguments.name,
        engine=arguments.engine,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
        startup_timeout=arguments.startup_timeout,
        options=_engine_options(arguments),
    )
    with _store(arguments.model_store) as store, write_folder(model, store):
        config = _configuration(arguments, os.environ, store)
        displaying = partial(display_for, example=partial(first_requests, model.task))
        return serve_configured(config, os.environ, displaying)


def _engine_options(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """As YAML has them, so that numbers are numbers; what is said with ``--engine.`` comes last."""
    import yaml

    from torchserve_lite.errors import ConfigurationError

    options = {}
    for family in reversed(FAMILIES):
        for flag, text in vars(arguments).items():
            if text is None or not flag.startswith(family.removeprefix("--")):
                continue
            try:
                options[flag.partition(".")[2].replace("-", "_")] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigurationError(f"--{flag} {text:.80}: this is no value in YAML.") from error
    return options


def _configuration(arguments: argparse.Namespace, environ: Mapping[str, str], store: Path) -> Config:
    """As ``start`` reads it, but for the models."""
    from torchserve_lite.config.loading import load_config
    from torchserve_lite.config.sources import find_config_file
    from torchserve_lite.core.options import ServingOptions

    command_line = {"config_snapshots": "false", "model_store": str(store)}
    if arguments.disable_token_auth:
        command_line["disable_token_authorization"] = "true"
    if arguments.port is not None or arguments.host is not None:
        port = 8080 if arguments.port is None else arguments.port
        command_line["inference_address"] = f"http://{arguments.host or '127.0.0.1'}:{port}"
    config = load_config(find_config_file(arguments.ts_config, environ), command_line, environ)
    startup = (ServingOptions(url=arguments.name, name=arguments.name),)
    return replace(config, models=replace(config.models, store=store, load_all=False, startup=startup))


@contextmanager
def _store(given: Path | None) -> Iterator[Path]:
    import tempfile

    from torchserve_lite.errors import ConfigurationError

    if given is None:
        with tempfile.TemporaryDirectory(prefix="torchserve-lite-llm-") as folder:
            yield Path(folder)
        return
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--model-store {given} cannot be used: {error.strerror}.") from error
    yield given.absolute()
