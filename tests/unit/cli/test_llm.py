"""``torchserve-lite llm``: what becomes of its flags, its messages, and what it leaves behind."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchserve_lite import compat
from torchserve_lite.cli import main
from torchserve_lite.cli.llm_examples import first_requests
from torchserve_lite.cli.llm_model import LanguageModel, write_folder
from torchserve_lite.config.settings import AccessConfig, Config
from torchserve_lite.errors import ConfigurationError, Conflict, ServingError

STAND_INS = Path(__file__).parents[2] / "compat" / "stand_ins"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's, as far as it is looked at."""
    model = tmp_path / "weights"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (model / "chat_template.jinja").write_text("{{ messages }}")
    return model


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STAND_INS))


def chosen(source: Path | str, **facts: Any) -> LanguageModel:
    defaults = {"name": "model", "engine": "auto", "dtype": "auto", "batch_size": 16, "startup_timeout": 1200}
    return LanguageModel.chosen(str(source), **{**defaults, "options": {}, **facts})


def test_model_without_vllm_is_batched_continuously_by_our_own_handler(folder: Path) -> None:
    model = chosen(folder, batch_size=4, options={"max_model_len": 64})
    assert (model.engine, model.handler) == ("hf", "llm_handler")
    assert model.model_config == {
        "minWorkers": 1,
        "maxWorkers": 1,
        "responseTimeout": 1200,
        "startupTimeout": 1200,
        "continuousBatching": True,
        "batchSize": 4,
        "handler": {"model_path": str(folder), "dtype": "auto", "max_model_len": 64},
    }


def test_model_is_vllms_where_that_is_installed(folder: Path, vllm: None) -> None:
    model = chosen(folder, dtype="bfloat16", options={"max_num_seqs": 8})
    assert (model.engine, model.handler) == ("vllm", "vllm_handler")
    assert model.model_config["asyncCommunication"]
    assert model.model_config["handler"]["vllm_engine_config"] == {"dtype": "bfloat16", "max_num_seqs": 8}


def test_engine_may_be_chosen_against_what_is_installed(folder: Path, vllm: None) -> None:
    assert chosen(folder, engine="hf").engine == "hf"


@pytest.mark.parametrize(
    ("source", "facts", "told"),
    [
        ("./nowhere", {}, "no such folder"),
        ("a/b/c", {}, "no such folder"),
        (".", {}, "has no config.json"),
        ("weights", {"engine": "vllm"}, "vllm, which is not installed: .*pip install vllm"),
        ("weights", {"engine": "trt_llm"}, "tensorrt_llm, which is not installed"),
        ("weights", {"name": "../up"}, "special characters"),
    ],
)
def test_model_that_cannot_be_served_is_refused_before_anything_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, facts: dict[str, str], told: str
) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ServingError, match=told):
        chosen(source, **facts)


def test_id_of_the_hub_without_network_says_how_to_bring_the_model_here(tmp_path: Path) -> None:
    """In a process of its own: what the environment says of the hub is read when its package is imported."""
    result = subprocess.run(
        [sys.executable, "-m", "torchserve_lite", "llm", "--model", "org/name", "--engine", "hf"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "hf download org/name --local-dir DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_folder_of_the_model_is_there_while_it_is_served(folder: Path, tmp_path: Path, vllm: None) -> None:
    store = tmp_path / "store"
    store.mkdir()
    model = chosen(folder, name="writer")
    with write_folder(model, store):
        written = yaml.safe_load((store / "writer" / "model-config.yaml").read_text())
        manifest = json.loads((store / "writer" / "MAR-INF" / "MANIFEST.json").read_text())
    assert written == model.model_config
    assert (manifest["model"]["modelName"], manifest["model"]["handler"]) == ("writer", "vllm_handler")
    assert not list(store.iterdir())


def test_folder_that_is_there_already_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="already exists"), write_folder(chosen(folder, name="weights"), tmp_path):
        pass
    assert (folder / "config.json").exists()


@pytest.mark.parametrize(
    ("files", "task"),
    [
        ({"config.json": '{"architectures": ["LlamaForCausalLM"]}', "chat_template.jinja": "x"}, "chat/completions"),
        (
            {
                "config.json": '{"architectures": ["GPT2LMHeadModel"]}',
                "tokenizer_config.json": '{"chat_template": "x"}',
            },
            "chat/completions",
        ),
        ({"config.json": '{"architectures": ["GPT2LMHeadModel"]}', "tokenizer_config.json": "{}"}, "completions"),
        ({"config.json": '{"architectures": ["BertModel"]}'}, "embeddings"),
    ],
    ids=["chat", "chat in the tokenizer", "text", "vectors"],
)
def test_first_request_is_one_that_the_model_can_answer(tmp_path: Path, files: dict[str, str], task: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert chosen(tmp_path).task == task


def test_config_of_the_model_that_is_no_json_is_told(folder: Path) -> None:
    (folder / "config.json").write_text("[}")
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        chosen(folder)


ADDRESSES = {"inference": "http://0.0.0.0:8080"}


def test_first_curl_can_be_pasted_and_shows_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key_file.json").write_text('{"inference": {"key": "secret"}}')
    shown = first_requests("chat/completions", Config(), ADDRESSES, "model")
    assert "secret" not in shown
    command = f"curl() {{ printf '%s\\n' \"$@\"; }}; {shown.splitlines()[0]}"
    arguments = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert arguments[0] == "http://127.0.0.1:8080/openai/v1/chat/completions"
    assert arguments[-1] == "Authorization: Bearer secret"
    (body,) = [json.loads(argument) for argument in arguments if argument.startswith("{")]
    assert body == {"model": "model", "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.mark.parametrize("task", ["chat/completions", "completions", "embeddings"])
@pytest.mark.parametrize("tokens", [True, False])
def test_first_lines_of_python_are_python(task: str, tokens: bool) -> None:
    shown = first_requests(task, Config(access=AccessConfig(tokens=tokens)), ADDRESSES, "model")
    curl, _, *lines = shown.splitlines()
    assert ("Authorization" in curl) is tokens
    ast.parse("\n".join(line.strip() for line in lines))


def _served(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """With a server that only pretends, and ends at once."""
    command = Path(__file__).parent / "command_with_fake_server.py"
    return subprocess.run(
        [sys.executable, str(command), "torchserve-lite", "llm", "--model", str(folder), *flags],
        env={**os.environ, "FAKE_SERVER": "refuses", "TMPDIR": str(folder.parent), "PYTHONPATH": str(STAND_INS)},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_left_when_the_server_could_not_start(folder: Path) -> None:
    before = {path.name for path in folder.parent.iterdir()}
    result = _served(folder, "--model_store", "store", "--model_name", "writer")
    assert (result.returncode, "cannot be used: taken" in result.stderr) == (1, True)
    assert not list((folder.parent / "store").iterdir())
    assert {path.name for path in folder.parent.iterdir()} - before <= {"store", "logs"}


def test_port_that_is_none_is_told(folder: Path) -> None:
    result = _served(folder, "--port", "99999")
    assert (result.returncode, "99999" in result.stderr) == (1, True)


@pytest.mark.parametrize("value", ["[", "{a"])
def test_option_that_is_no_yaml_is_told(folder: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    result = _served(folder, "--engine.max_model_len", value)
    assert (result.returncode, "--engine.max_model_len" in result.stderr) == (1, True)


def test_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["llm", "--engine.max_model_len", "7"])
    assert "--model" in capsys.readouterr().err


def test_torchserves_launcher_is_the_same_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ts.llm_launcher", "--help"],
        env={**os.environ, "PYTHONPATH": str(Path(compat.__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: torchserve-lite llm" in result.stdout
