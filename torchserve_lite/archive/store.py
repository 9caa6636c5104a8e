"""Finds archives in the model store and opens them: unpacked in a folder of their own, manifest and config read."""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from torchserve_lite.archive.manifest import Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.unpacking.entries import UnpackLimits
from torchserve_lite.archive.unpacking.unpack import unpack
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError

ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz")

_URL = re.compile(r"(https?|file)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An opened archive. ``path`` is the folder workers run in; leaving the archive removes what was unpacked.

    A folder in the model store is used where it lies: its ``digest`` is empty, because its content may change, and
    ``scratch`` is an empty place for what must not be written into the store.
    """

    url: str
    path: Path
    scratch: Path
    digest: str
    manifest: Manifest
    config: ModelConfig

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.manifest.warnings + self.config.warnings

    @property
    def is_folder(self) -> bool:
        """Served where it lies in the model store, not unpacked."""
        return not self.path.is_relative_to(self.scratch)

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStore:
    """The folder that archives are looked up in; only names in it can be opened, never paths. Its verbs block."""

    folder: Path | None
    scratch: Path
    limits: UnpackLimits = field(default_factory=UnpackLimits)

    def locate(self, url: str) -> Path:
        """The file or folder of the store that ``url`` names: its last part counts, whatever stands before."""
        if not url:
            raise ArchiveNotFound("empty url")
        if ".." in url:
            raise ArchiveNotFound(f"Relative path is not allowed in url: {url}")
        if _URL.match(url):
            raise ArchiveNotFound(f"Given URL {url} does not match any allowed URL(s)")
        if self.folder is None:
            raise ArchiveNotFound("Model store has not been configured.")
        path = self.folder / _last_part(url)
        if path == self.folder or not _exists(path):
            raise ArchiveNotFound(f"Model not found at: {url}")
        return path

    def open(self, url: str) -> Archive:
        return self.open_at(url, self.locate(url))

    def open_at(self, url: str, path: Path) -> Archive:
        """Opens what lies at ``path`` (as ``locate`` gave it, or downloaded) under the name ``url``."""
        scratch = self.scratch / "models" / uuid.uuid4().hex
        try:
            return _open_folder(url, path, scratch) if path.is_dir() else _open_file(url, path, scratch, self.limits)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def all_archives(self) -> list[str]:
        """Names of all that ``load_models=all`` loads, sorted."""
        if self.folder is None:
            raise ConfigurationError("load_models=all needs model_store. Model store has not been configured.")
        try:
            return sorted(path.name for path in self.folder.iterdir() if _is_archive(path))
        except OSError as error:
            raise ConfigurationError(f"model_store={self.folder} cannot be read: {error.strerror}.") from error


def _open_folder(url: str, path: Path, scratch: Path) -> Archive:
    scratch.mkdir(parents=True, mode=0o700)
    return _described(url, _entered(path.resolve()), scratch, digest="")


def _open_file(url: str, path: Path, scratch: Path, limits: UnpackLimits) -> Archive:
    digest = unpack(path, scratch, limits)
    return _described(url, _entered(scratch), scratch, digest)


def _described(url: str, path: Path, scratch: Path, digest: str) -> Archive:
    name = _last_part(url)
    manifest = Manifest.read(path, name)
    config = ModelConfig.read(path, manifest, name)
    return Archive(url=url, path=path, scratch=scratch, digest=digest, manifest=manifest, config=config)


def _entered(folder: Path) -> Path:
    """A folder around the model (SageMaker, or an archive made of the folder itself) is stepped into."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != "MAR-INF":
        return entries[0]
    return folder


def _last_part(url: str) -> str:
    path = urlsplit(url).path if _URL.match(url) else url
    return path.rstrip("/").rpartition("/")[2]


def _exists(path: Path) -> bool:
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL byte
        return False


def _is_archive(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.is_dir() or (path.name.endswith(ARCHIVE_SUFFIXES) and path.is_file())
