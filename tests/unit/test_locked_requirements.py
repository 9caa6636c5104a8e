"""What `make setup` installs: the lock holds, for each supported Python, what pyproject.toml asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements/locked.txt").read_text()
LINES = [line for line in LOCK.replace("\\\n", " ").splitlines() if line and not line.lstrip().startswith("#")]
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]


def asked_for() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *extras["dev"]]
    return [Requirement(text) for text in listed if Requirement(text).name != "torch"]


def locked(python: str) -> dict[str, str]:
    """Name -> version on Linux; pip refuses a name that is locked twice for one Python."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found: dict[str, str] = {}
    for line in LINES:
        requirement = Requirement(line.partition(" --hash")[0])
        if requirement.marker is None or requirement.marker.evaluate(here):
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_holds_what_the_project_asks_for_when_it_is_installed(python: str) -> None:
    """A dependency that was added without `make lock` would be missing in a fresh clone only."""
    versions = locked(python)
    unmet = [str(asked) for asked in asked_for() if not asked.specifier.contains(versions.get(asked.name.lower(), ""))]
    assert unmet == []


def test_every_locked_file_has_its_hash_and_names_no_host() -> None:
    assert [line for line in LINES if "--hash=sha256:" not in line] == []
    assert "://" not in LOCK


def test_lock_leaves_the_build_of_torch_to_the_machine() -> None:
    """NVIDIA's libraries are gigabytes that the CPU build has no use for."""
    assert [name for name in locked("3.11") if name in ("torch", "triton") or name.startswith(("nvidia", "cuda"))] == []
