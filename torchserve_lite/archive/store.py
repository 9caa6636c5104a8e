"""Finds archives in the model store and opens them: unpacked in a folder of their own, manifest and config read."""

from __future__ import annotations

import logging
import re
import shutil
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from torchserve_lite.archive.manifest import MANIFEST_PATH, Manifest
from torchserve_lite.archive.model_config import ModelConfig
from torchserve_lite.archive.project import project_manifest
from torchserve_lite.archive.unpacking.cache import ArchiveCache
from torchserve_lite.archive.unpacking.entries import UnpackLimits, is_desktop_file, shown
from torchserve_lite.archive.unpacking.unpack import unpack
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError, InvalidArchive, ServingError

logger = logging.getLogger(__name__)

ARCHIVE_SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz")

_MOST_STRAYS = 20
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An opened archive. ``path`` is the folder workers run in; leaving the archive removes what was unpacked.

    A folder in the model store is used where it lies: its ``digest`` is empty, because its content may change, and
    ``scratch`` is an empty place for what must not be written into the store. That of a file is empty where the store
    was not to compute any.
    """

    url: str
    path: Path
    scratch: Path
    digest: str
    manifest: Manifest
    config: ModelConfig

    @property
    def name(self) -> str:
        """For messages: a URL may have secrets in its query."""
        return last_part(self.url)

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
    """The folder that archives are looked up in; only names in it can be opened, never paths. Its verbs block; what
    takes long ends with ShuttingDown on an ``interruption``."""

    folder: Path | None
    scratch: Path
    pulled: Path | None = None  # where KServe's agent puts models, each into a folder of its name
    cache: ArchiveCache | None = None
    digests: bool = True  # whether somebody compares them: a file is read once more for its SHA-256
    projects: bool = False  # whether a folder without a manifest is read as a handler project
    limits: UnpackLimits = field(default_factory=UnpackLimits)
    interruption: Interruption = field(default_factory=Interruption)

    def interrupted_by(self, interruption: Interruption) -> ModelStore:
        return replace(self, interruption=interruption)

    def locate(self, url: str) -> Path:
        """The file or folder of the store that ``url`` names: its last part counts, whatever stands before."""
        if not url:
            raise ArchiveNotFound("empty url")
        if ".." in url:
            raise ArchiveNotFound(f"Relative path is not allowed in url: {url}")
        if is_url(url):
            raise ArchiveNotFound(f"Given URL {url} does not match any allowed URL(s)")
        if self.folder is None:
            raise ArchiveNotFound("Model store has not been configured.")
        path = self.folder / last_part(url)
        try:
            found = path != self.folder and (path.is_file() or path.is_dir())
        except (OSError, ValueError):  # a name too long for the file system, or with a NUL byte
            found = False
        if not found:
            raise ArchiveNotFound(f"Model not found at: {url}")
        return path

    def locate_pulled(self, name: str) -> Path | None:
        """The only archive in the folder of that name, else the folder itself, which is an unpacked one then."""
        if self.pulled is None or name != last_part(name) or name.startswith("."):
            return None
        try:
            folder = self.pulled / name
            files = [path for path in folder.iterdir() if path.name.endswith(ARCHIVE_SUFFIXES) and path.is_file()]
            if len(files) == 1:
                return files[0]
            return folder if (_model_folder(folder) / MANIFEST_PATH).is_file() else None
        except (OSError, ValueError):  # it is not there, or no folder can have that name
            return None

    def open(self, url: str) -> Archive:
        return self.open_at(url, self.locate(url))

    def open_at(self, url: str, path: Path) -> Archive:
        """Opens what lies at ``path`` (as ``locate`` gave it, or downloaded) under the name ``url``."""
        scratch = self.scratch / "models" / uuid.uuid4().hex
        name = last_part(url)
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, scratch, ignore_errors=True)
            try:
                if path.is_dir():
                    scratch.mkdir(parents=True, mode=0o700)
                    folder, digest = _model_folder(path.resolve()), ""
                    if self._was_pulled(path):  # the agent deletes it, and only then has it unloaded
                        folder = Path(shutil.copytree(folder, scratch / "copy"))
                else:
                    if self.cache is not None:
                        digest = self.cache.unpack(path, scratch, self.limits, self.interruption)
                    else:
                        digest = unpack(path, scratch, self.limits, self.interruption, digest_wanted=self.digests)
                    folder = _model_folder(scratch)
                manifest = Manifest.read(folder, name)
                if self.projects and path.is_dir() and manifest.raw is None:
                    manifest = Manifest.of(project_manifest(folder, name))
                config = ModelConfig.read(folder, manifest, name)
            except ServingError:
                raise
            except Exception as error:  # whatever it is, it is about this archive alone, and the others are opened
                reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                raise InvalidArchive(name, f"cannot be read: {reason}") from error
            undo.pop_all()
        return Archive(url=url, path=folder, scratch=scratch, digest=digest, manifest=manifest, config=config)

    def _was_pulled(self, path: Path) -> bool:
        in_store = self.folder is not None and path.is_relative_to(self.folder)
        return self.pulled is not None and path.is_relative_to(self.pulled) and not in_store

    def all_archives(self, *, manifest_needed: bool = True) -> list[str]:
        """Names of all that ``load_models=all`` loads, sorted. What else lies in the store is told in one line.

        ``manifest_needed``: False when a default handler can serve a folder that has no manifest to name one.
        """
        if self.folder is None:
            raise ConfigurationError("load_models=all needs model_store. Model store has not been configured.")
        reasons = self._reasons(manifest_needed)
        if strays := [f"{shown(name)} {reason}" for name, reason in reasons.items() if reason]:
            more = f", and {len(strays) - _MOST_STRAYS} more" if len(strays) > _MOST_STRAYS else ""
            logger.warning(
                "load_models=all skips what is not an archive in %s: %s%s.",
                self.folder,
                ", ".join(strays[:_MOST_STRAYS]),
                more,
            )
        return [name for name, reason in reasons.items() if not reason]

    def archives(self, *, manifest_needed: bool = True) -> list[str]:
        """The same names, for those who only want to look: not a word of the rest, and none where there is no store."""
        return [name for name, reason in self._reasons(manifest_needed).items() if not reason]

    def _reasons(self, manifest_needed: bool) -> dict[str, str]:
        """Why each of the store's files and folders is no archive; empty for one that is."""
        if self.folder is None:
            return {}
        try:
            paths = sorted(path for path in self.folder.iterdir() if path.suffix != ".war")  # workflows may lie there
        except OSError as error:
            raise ConfigurationError(f"model_store={self.folder} cannot be read: {error.strerror}.") from error
        return {path.name: _why_no_archive(path, manifest_needed) for path in paths}


def _model_folder(folder: Path) -> Path:
    """A folder around the model (SageMaker, or a zip that a desktop made of the folder) is stepped into."""
    entries = [path for path in folder.iterdir() if not is_desktop_file(path.name)]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != "MAR-INF":
        return entries[0]
    return folder


def is_url(text: str) -> bool:
    """Of any scheme: whatever is written like one is never taken for a name in the store."""
    return _URL.match(text) is not None


def last_part(url: str) -> str:
    """The name in the store that ``url`` stands for; of a URL without its query."""
    path = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0].partition("/")[2] if is_url(url) else url
    return path.rstrip("/").rpartition("/")[2]


def _why_no_archive(path: Path, manifest_needed: bool) -> str:
    """ "" for an archive. A disk's lost+found is none, nor is any folder that could not be served."""
    try:
        if path.name.startswith("."):
            return "(hidden)"
        if path.is_dir():
            folder = _model_folder(path)
            if not any(folder.iterdir()):
                return "(an empty folder)"
            if manifest_needed and not (folder / MANIFEST_PATH).is_file():
                return f"(a folder without {MANIFEST_PATH})"
            return ""
        if not path.is_file():
            return "(no file)"
        return "" if path.name.endswith(ARCHIVE_SUFFIXES) else f"(none of {', '.join(ARCHIVE_SUFFIXES)})"
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
