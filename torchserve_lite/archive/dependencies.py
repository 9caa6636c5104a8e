"""Installs the packages an archive asks for, before its first worker starts (``install_py_dep_per_model``)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchserve_lite.archive.requirements import PACKAGE_SUFFIXES, Requirements, for_pip, read_requirements
from torchserve_lite.archive.store import Archive
from torchserve_lite.archive.unpacking.entries import ArchiveError
from torchserve_lite.core.programs import ends_with_us
from torchserve_lite.core.shortening import MESSAGE, shortened
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive

_LONGEST_INSTALL = 1800.0  # seconds; a torch from a slow mirror takes ten minutes
_LOOK_AGAIN = 0.2  # seconds between two looks at whether the server is stopping
_LAST_LINES = 12
_COMPLETE = "complete"  # written last, so that a build that was cut off is not taken for an environment

_DESCRIBE_PYTHON = """
import json, site, sys
places = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
print(json.dumps({"version": sys.version, "prefix": sys.prefix, "places": places}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the workers of an archive run in: an interpreter, and folders for PYTHONPATH besides the model's own."""

    python: str
    python_path: tuple[str, ...] = ()


def install(archive: Archive, *, python: str, cache: Path, interruption: Interruption | None = None) -> Environment:
    """Blocks while pip works; ShuttingDown on ``interruption``. ``python``: "" is our own. ``cache`` keeps virtual
    environments for later workers, versions and, if it outlives the server, restarts."""
    name = archive.manifest.requirements_file
    if not name:
        return Environment(python=python)
    model = archive.manifest.model_name or archive.name
    try:
        requirements = read_requirements(archive.path, name)
        installation = _Installation(archive, requirements, interruption or Interruption())
        if archive.config.options.use_venv and archive.manifest.runtime == "python":
            return installation.into_virtual_environment(python or sys.executable, cache)
        return installation.into_folder(python)
    except ArchiveError as error:
        raise InvalidArchive(archive.name, str(error)) from error
    except (OSError, ValueError) as error:  # a full disk, an interpreter that is gone or says other things than asked
        raise InvalidArchive(archive.name, f"the packages it asks for cannot be installed: {error}") from error
    except _CommandFailed as error:
        raise InvalidArchive(
            archive.name, f"{error.doing} failed for model {model}.\n{shortened(error.output, MESSAGE)}"
        ) from error


class _CommandFailed(Exception):
    def __init__(self, doing: str, output: str) -> None:
        super().__init__(doing)
        self.doing = doing
        self.output = output


class _Installation:
    def __init__(self, archive: Archive, requirements: Requirements, interruption: Interruption) -> None:
        self._archive = archive
        self._requirements = requirements
        self._interruption = interruption

    def into_folder(self, python: str) -> Environment:
        """A folder of the model store is the operator's and stays clean."""
        archive = self._archive
        target = archive.scratch / "packages" if archive.is_folder else archive.path
        self._pip(python or sys.executable, "--target", str(target))
        return Environment(python=python, python_path=(str(target),) if archive.is_folder else ())

    def into_virtual_environment(self, python: str, cache: Path) -> Environment:
        described = self._run("Virtual environment creation", [python, "-P", "-c", _DESCRIBE_PYTHON])
        folder = cache / _key(self._archive, self._requirements, python, described)
        interpreter = str(folder / "bin/python")
        with self._locked(folder):
            if not (folder / _COMPLETE).exists():
                self._create_environment(folder, python, json.loads(described)["places"])
                self._pip(interpreter, "--upgrade-strategy", "only-if-needed")
                (folder / _COMPLETE).touch()
        return Environment(python=interpreter)

    def _create_environment(self, folder: Path, python: str, inherited: Sequence[str]) -> None:
        """Without pip of its own: it sees that of the interpreter it inherits from, and torch and the rest of its
        packages. ``addsitedir`` rather than bare paths, because it follows the ``.pth`` files there: editable installs
        are such."""
        shutil.rmtree(folder, ignore_errors=True)
        self._run("Virtual environment creation", [python, "-P", "-m", "venv", "--without-pip", str(folder)])
        lines = "".join(f"import site; site.addsitedir({place!r})\n" for place in inherited)
        for site_packages in folder.glob("lib/python*/site-packages"):
            (site_packages / "inherited.pth").write_text(lines)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Versions of a model are often registered together; the second waits and finds the environment made."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._interruption.wait(_LOOK_AGAIN)
            yield

    def _pip(self, python: str, *options: str) -> None:
        model_folder, requirements = self._archive.path, self._requirements
        with tempfile.TemporaryDirectory() as folder:
            wanted, constraints = Path(folder, "requirements.txt"), Path(folder, "constraints.txt")
            wanted.write_text(for_pip(requirements.lines, model_folder), encoding="utf-8")
            constraints.write_text(for_pip(requirements.constraints, model_folder), encoding="utf-8")
            command = [python, "-P", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--upgrade"]
            command += ["--find-links", str(model_folder), *options, "-r", str(wanted), "-c", str(constraints)]
            self._run("Custom pip package installation", command)

    def _run(self, doing: str, command: Sequence[str]) -> str:
        """In the server's folder, where relative paths in the operator's settings (PIP_CONFIG_FILE, PATH, the
        interpreter) mean what the operator meant, and never in the model's, where they would find what the archive
        brings: a json.py, a sitecustomize.py, a pip.conf with an index of its own. PYTHONPATH is for handlers and may
        name the model's folder.
        """
        process = subprocess.Popen(
            ends_with_us(command),
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with _killed_on_exit(process):
            output = self._output_of(process, doing)
        if process.returncode:
            lines = [line for line in output.splitlines() if line.strip()]
            raise _CommandFailed(doing, "\n".join(lines[-_LAST_LINES:]))
        return output

    def _output_of(self, process: subprocess.Popen[str], doing: str) -> str:
        deadline = time.monotonic() + _LONGEST_INSTALL
        while time.monotonic() < deadline:
            try:
                return process.communicate(timeout=_LOOK_AGAIN)[0]
            except subprocess.TimeoutExpired:
                self._interruption.check()
        raise _CommandFailed(doing, f"It took longer than {_LONGEST_INSTALL:g} s.")


def _key(archive: Archive, requirements: Requirements, python: str, described: str) -> str:
    """Equal for equal interpreters, requirements and packages in the archive, so that equal models share."""
    digest = hashlib.sha256(repr((python, described, requirements.lines, requirements.constraints)).encode())
    for path in sorted(archive.path.rglob("*")):
        if path.name.endswith(PACKAGE_SUFFIXES) and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(archive.path)} {content}\n".encode())
    return digest.hexdigest()


@contextmanager
def _killed_on_exit(process: subprocess.Popen[str]) -> Iterator[None]:
    """However we leave, nothing that pip started goes on."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
