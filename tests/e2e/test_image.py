"""The container image: what can be told without building it, and on request the whole of it."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

_ROOT = Path(__file__).parents[2]
_DOCKER = _ROOT / "docker"


def _entrypoint(folder: Path, *arguments: str) -> list[str]:
    """What the container's arguments run, as words, by a torchserve that only tells."""
    (folder / "torchserve").write_text('#!/bin/sh\nprintf "%s\\n" torchserve "$@"\n')
    (folder / "torchserve").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", str(_DOCKER / "entrypoint.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        pytest.param([], "torchserve --start --ts-config /home/model-server/config.properties --foreground", id="none"),
        pytest.param(
            ["serve", "--models", "all"],
            "torchserve --start --ts-config /home/model-server/config.properties --models all --foreground",
            id="serve",
        ),
        pytest.param(
            ["torchserve", "--start", "--model-store=/mnt/models/model-store", "--ts-config=/c"],
            "torchserve --start --model-store=/mnt/models/model-store --ts-config=/c --foreground",
            id="KServe's runtime",
        ),
        pytest.param(["--models", "m=a b.mar"], "torchserve|--models|m=a b.mar|--foreground", id="flags alone"),
        pytest.param(
            ["torchserve --start --models 'a b'"], "torchserve|--start|--models|a b|--foreground", id="a line"
        ),
        pytest.param(["torchserve --version; echo done"], "torchserve --version done", id="a script"),
        pytest.param(["echo", "hello"], "hello", id="another command"),
    ],
)
def test_arguments_of_torchserves_image_are_understood(arguments: list[str], runs: str, tmp_path: Path) -> None:
    assert _entrypoint(tmp_path, *arguments) == runs.split("|" if "|" in runs else " ")


def test_layers_hold_what_the_project_asks_for() -> None:
    """A dependency that is added to the project has to be added to one of the two."""
    asked = {Requirement(text).name for text in _project()["dependencies"]} - {"torch"}
    named = {line.strip() for part in ("handlers", "server") for line in _lines(f"requirements/{part}.in")}
    assert asked <= named


@pytest.mark.parametrize("part", ["handlers", "server", "build"])
def test_what_an_image_installs_is_of_the_locked_versions_and_hashed(part: str) -> None:
    text = (_DOCKER / "requirements" / f"{part}.txt").read_text().replace("\\\n", " ")
    locked = (_ROOT / "requirements/locked.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if "--hash=sha256:" not in line] == []
    assert [line for line in lines if f"{line.split()[0]} " not in locked] == []


def test_torchvision_is_the_one_of_the_torch_that_is_installed() -> None:
    """torch 2.N and torchvision 0.N+15 are released together, and neither loads beside another."""
    (torch,) = [line for line in (_ROOT / "requirements/torch.txt").read_text().splitlines() if "==" in line]
    (vision,) = _lines("requirements/torchvision.txt")
    torch_version, version = (Version(line.partition("==")[2]) for line in (torch, vision))
    assert (version.minor, version.micro) == (torch_version.minor + 15, torch_version.micro)


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.dev"])
def test_what_is_copied_is_there_and_sent_to_the_builder(file: str) -> None:
    text = (_DOCKER / file).read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M) for word in line.split()[:-1]]
    sources = [word for word in copied if not word.startswith("--") and word != "."]
    sent = [line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert [word for word in sources if not (_ROOT / word).exists()] == []
    assert [word for word in sources if not any(fnmatch.fnmatch(word.partition("/")[0], one) for one in sent)] == []


def test_build_script_passes_its_flags_on(tmp_path: Path) -> None:
    command = ["bash", str(_DOCKER / "build_image.sh"), "-g", "-t", "me/server:1", "--", "--pull"]
    done = subprocess.run(command, env={**os.environ, "BUILDER": "echo"}, capture_output=True, text=True, check=True)
    assert "--file docker/Dockerfile --tag me/server:1" in done.stdout
    assert "--build-arg TORCH_INDEX= --pull ." in done.stdout


def test_image_is_built_and_run_as_kserve_does(tmp_path: Path) -> None:
    """Minutes, so on request: a base is made, the image is built on it, and the guide's requests are sent to it."""
    wanted = os.environ.get("VERIFY_IMAGE", "")
    if not wanted:
        pytest.skip(
            "NOT BUILT: it takes minutes; VERIFY_IMAGE=1, or flags of docker/verify_image.py, builds and runs it"
        )
    flags = wanted.split() if wanted.startswith("-") else []
    done = subprocess.run([sys.executable, str(_DOCKER / "verify_image.py"), *flags], stdout=subprocess.PIPE, text=True)
    if done.returncode == 2:  # a tool is missing, or root
        pytest.skip(f"NOT BUILT: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout[-5000:]


def _project() -> dict[str, list[str]]:
    project: dict[str, list[str]] = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    return project


def _lines(file: str) -> list[str]:
    return [line for line in (_DOCKER / file).read_text().splitlines() if line and not line.startswith("#")]
