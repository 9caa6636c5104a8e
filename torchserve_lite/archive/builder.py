"""Builds model archives: the same entries and the same manifest as torch-model-archiver 0.12 writes.

Files are read from where they lie. The original copies them to ``<tmp>/<model-name>`` first, which it empties
beforehand (somebody else's folder, if the model is called so) and leaves behind when it fails.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import logging
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from torchserve_lite.archive.built_in_handlers import BUILT_IN_HANDLERS, UNKNOWN_TO_THE_ARCHIVER, suggestion_for
from torchserve_lite.archive.manifest import MANIFEST_PATH
from torchserve_lite.archive.unpacking.entries import CHUNK, KIB, MIB
from torchserve_lite.errors import BadRequest, Conflict, NotFound

ARCHIVER_VERSION = "0.12.0"  # whose format we write
FORMATS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}

_BUILT_IN_LSP_HANDLERS = frozenset({"BaseHandler", "TorchScriptHandler"})
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "__MACOSX"})
_SAMPLE, _SAMPLES = 64 * KIB, 4  # of a file, to see whether it can be compressed
_WORTH_COMPRESSING = 0.85  # trained float weights shrink to about 0.92, texts and code to a third

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the bytes packed so far and the bytes there are in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRequest:
    """What to pack; the fields are torch-model-archiver's flags, "" where one is not given."""

    model_name: str
    version: str
    handler: str
    serialized_file: str = ""
    model_file: str = ""
    extra_files: str = ""
    requirements_file: str = ""
    config_file: str = ""
    runtime: str = "python"
    export_path: str = "."
    archive_format: str = "default"
    force: bool = False

    @property
    def target(self) -> Path:
        return Path(self.export_path, self.model_name + FORMATS[self.archive_format])


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of an archive: name in it -> where it lies. The manifest comes on top."""

    files: Mapping[str, Path]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


def contents(request: ArchiveRequest) -> Contents:
    """What ``build`` would pack. Raises when a file is missing."""
    files: dict[str, Path] = {}
    for name, path in _sources(request):
        if name == MANIFEST_PATH:
            logger.warning("%s is left out: the archive gets a manifest of its own", path)
            continue
        if name in files and not files[name].samefile(path):
            logger.warning("%s replaces %s: both would be %s in the archive", path, files[name], name)
        files[name] = path
    folders_last = sorted(files, key=lambda name: (name.split("/")[:-1], name))
    return Contents({name: files[name] for name in folders_last})


def build(request: ArchiveRequest, progress: Progress | None = None) -> Path:
    """Writes the archive and returns where; an archive that was there is replaced whole or not at all."""
    check_model_name(request.model_name)
    if not Path(request.export_path).is_dir():
        raise BadRequest(
            f"Given export-path {request.export_path} is not a directory. Point to a valid export-path directory."
        )
    if request.target.exists() and not request.force:
        raise Conflict(
            f"{request.target} already exists.\n"
            "Please specify --force/-f option to overwrite the model archive output file.\n"
            "See -h/--help for more details."
        )
    packed = contents(request)
    manifest = manifest_text(request, datetime.now())
    write = {"tgz": _write_tar, "no-archive": _write_folder}.get(request.archive_format, _write_zip)
    write(request, packed.files, manifest, _ByteCounter(packed.size, progress))
    return request.target


class _ByteCounter:
    """Told of every piece packed; tells how much that makes of the whole."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._packed = 0

    def count(self, size: int) -> None:
        self._packed += size
        if self._progress:
            self._progress(self._packed, self._total)


def manifest_text(request: ArchiveRequest, now: datetime) -> str:
    model = {
        "modelName": request.model_name,
        "serializedFile": os.path.basename(request.serialized_file),
        "handler": os.path.basename(request.handler),
        "modelFile": os.path.basename(request.model_file),
        "modelVersion": request.version,
        "requirementsFile": os.path.basename(request.requirements_file),
        "configFile": os.path.basename(request.config_file),
    }
    manifest = {
        "createdOn": now.strftime("%d/%m/%Y %H:%M:%S"),
        "runtime": request.runtime,
        "model": {key: value for key, value in model.items() if value},
        "archiverVersion": ARCHIVER_VERSION,
    }
    return json.dumps(manifest, indent=2)


def check_model_name(name: str) -> None:
    if not _MODEL_NAME.fullmatch(name):
        raise BadRequest(
            "Model name contains special characters.\n"
            rf"The allowed regular expression filter for model name is: ^{_MODEL_NAME.pattern}$"
        )


def _sources(request: ArchiveRequest) -> Iterator[tuple[str, Path]]:
    """Names and files, in the order in which a later one replaces an earlier one of its name."""
    yield from _single_file("--model-file", request.model_file)
    yield from _single_file("--serialized-file", request.serialized_file)
    yield from _single_file("--handler", _handler_file(request))
    for pattern in filter(None, map(str.strip, request.extra_files.split(","))):
        matches = [Path(pattern)] if Path(pattern).exists() else [Path(match) for match in sorted(glob.glob(pattern))]
        if not matches and not glob.has_magic(pattern):
            raise NotFound(f"--extra-files: File does not exist: {pattern}")
        if not matches:
            logger.warning("Given wildcard pattern did not match any file: %s", pattern)
        for path in matches:
            if path.is_dir():
                yield from _files_below(path, "", (path.resolve(),))
            else:
                yield path.name, _existing("--extra-files", path)
    yield from _single_file("--requirements-file", request.requirements_file)
    yield from _single_file("--config-file", request.config_file)


def _single_file(flag: str, path: str) -> Iterator[tuple[str, Path]]:
    if path:
        yield Path(path).name, _existing(flag, Path(path))


def _handler_file(request: ArchiveRequest) -> str:
    """The file that holds the handler; "" when it is built into the server."""
    if request.runtime == "LSP":  # C++ handlers are named ``library:Class``
        library = request.handler.partition(":")[0] + (".dylib" if sys.platform == "darwin" else ".so")
        return "" if request.handler in _BUILT_IN_LSP_HANDLERS else library
    if request.handler in BUILT_IN_HANDLERS and request.handler not in UNKNOWN_TO_THE_ARCHIVER:
        return ""
    module = request.handler.partition(":")[0]
    file = module if module.endswith(".py") else f"{module}.py"
    if module == request.handler != file and not Path(file).exists():  # may be meant for one of the server's own
        raise NotFound(f"--handler: there is no file {file}. {suggestion_for(module)}")
    return file


def _existing(flag: str, path: Path) -> Path:
    if path.is_file():
        return path
    raise NotFound(f"{flag}: {path} is a folder, not a file." if path.is_dir() else f"{flag}: there is no file {path}.")


def _files_below(folder: Path, prefix: str, inside: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Links are followed, as the original's copying does; ``inside`` are the folders we are in, to notice a circle."""
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield prefix + path.name, _existing("--extra-files", path)
        elif path.name not in _SKIPPED_FOLDERS and not path.name.startswith("."):
            if (real := path.resolve()) in inside:
                raise BadRequest(f"--extra-files: {path} is a link to a folder around it.")
            yield from _files_below(path, f"{prefix}{path.name}/", (*inside, real))


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file beside ``target`` that takes its place when all went well."""
    if target.exists():
        logger.warning("Overwriting %s ...", target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write_zip(request: ArchiveRequest, files: Mapping[str, Path], manifest: str, counter: _ByteCounter) -> None:
    method = zipfile.ZIP_STORED if request.archive_format == "zip-store" else zipfile.ZIP_DEFLATED
    with replacing(request.target) as target, zipfile.ZipFile(target, "w", method) as archive:
        for name, path in files.items():
            info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            info.compress_type = zipfile.ZIP_STORED if _hardly_shrinks(path) else method
            with path.open("rb") as source, archive.open(info, "w") as packed:
                _copy(source, packed, counter)
        archive.writestr(MANIFEST_PATH, manifest)


def _hardly_shrinks(path: Path) -> bool:
    """Weights mostly do not. Whoever serves them would inflate them at each start, which takes five times as long as
    reading them; the original deflates everything."""
    size = path.stat().st_size
    if size < MIB:
        return False
    with path.open("rb") as file:
        pieces = [file.read(_SAMPLE) for at in range(_SAMPLES) if file.seek(at * size // _SAMPLES) >= 0]
    return sum(len(zlib.compress(piece, 1)) for piece in pieces) > _WORTH_COMPRESSING * sum(map(len, pieces))


def _write_tar(request: ArchiveRequest, files: Mapping[str, Path], manifest: str, counter: _ByteCounter) -> None:
    with (
        replacing(request.target) as target,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=target) as packed,
        tarfile.open(mode="w", fileobj=packed, dereference=True) as archive,
    ):
        for name, path in files.items():
            with path.open("rb") as source:
                info = archive.gettarinfo(arcname=f"{request.model_name}/{name}", fileobj=source)
                info.uid = info.gid = 0  # who built an archive is nobody's business
                info.uname = info.gname = ""
                archive.addfile(info, _CountingReader(source, counter))
        info = tarfile.TarInfo(f"{request.model_name}/{MANIFEST_PATH}")
        info.size = len(manifest.encode())
        archive.addfile(info, io.BytesIO(manifest.encode()))


class _CountingReader:
    """A file that tells how much of it has been read (tarfile does its own copying)."""

    def __init__(self, file: IO[bytes], counter: _ByteCounter) -> None:
        self._file = file
        self._counter = counter

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._counter.count(len(data))
        return data


def _write_folder(request: ArchiveRequest, files: Mapping[str, Path], manifest: str, counter: _ByteCounter) -> None:
    """Over what is there, as the original does: the folder may be one that a server is serving."""
    if request.target.exists():
        logger.warning("Overwriting %s ...", request.target)
    for name, path in files.items():
        target = request.target / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(path)):
            with path.open("rb") as source, target.open("wb") as copy:
                _copy(source, copy, counter)
            shutil.copymode(path, target)
    file = request.target / MANIFEST_PATH
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(manifest, encoding="utf-8")


def _copy(source: IO[bytes], target: IO[bytes], counter: _ByteCounter) -> None:
    while chunk := source.read(CHUNK):
        target.write(chunk)
        counter.count(len(chunk))
