"""What torch-model-archiver is asked to pack in the comparison, and how an archive is summed up for it."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = {
    "handler.py": "def handle(data, context):\n    return data\n",
    "network.py": "class Network:\n    pass\n",
    "weights.pt": "weights",
    "labels.json": "{}",
    "notes a.txt": "a",
    "notes b.txt": "b",
    "reqs/requirements.txt": "captum\n",
    "conf/model-config.yaml": "minWorkers: 1\n",
    "extra/helper.py": "HELP = 1\n",
    "extra/.dotfile": "hidden",
    "extra/stale.pyc": "stale",
    "extra/.hidden/secret.txt": "secret",
    "extra/__pycache__/helper.pyc": "compiled",
    "extra/sub/deep.txt": "deep",
    "extra/sub/deeper/file.txt": "deeper",
    "extra/sub/__MACOSX/junk": "junk",
    "other/labels.json": '{"0": "from other"}',
}

BASIC = ["--model-name", "mnist", "--version", "1.0"]

CASES: dict[str, list[str]] = {
    "eager": [*BASIC, "--handler", "handler.py", "--model-file", "network.py", "--serialized-file", "weights.pt"],
    "handler_without_suffix": [*BASIC, "--handler", "handler"],
    "function_handler": [*BASIC, "--handler", "handler:handle"],
    "built_in_handler": [*BASIC, "--handler", "image_classifier", "--serialized-file", "weights.pt"],
    "extra_folder": [*BASIC, "--handler", "handler.py", "--extra-files", "labels.json,extra"],
    "extra_patterns": [*BASIC, "--handler", "handler.py", "--extra-files", "notes ?.txt,*.json,nothing*"],
    "later_file_wins": [*BASIC, "--handler", "handler.py", "--extra-files", "labels.json,other/labels.json"],
    "everything": [
        *[*BASIC, "--handler", "handler.py", "--serialized-file", "weights.pt", "--extra-files", "extra"],
        *["-r", "reqs/requirements.txt", "-c", "conf/model-config.yaml", "--runtime", "python3"],
    ],
    "version_is_text": ["--model-name", "a.b-c_d", "-v", "3", "--handler", "base_handler"],
}

FORMATS = ("default", "zip-store", "tgz", "no-archive")


def make_sources(folder: Path) -> None:
    for name, text in SOURCES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def summed_up(archive: Path) -> dict[str, Any]:
    """The manifest without its date, every other entry by digest, and which entry comes last."""
    entries = dict(_entries(archive))
    manifest_name = next(name for name in entries if name.endswith("MAR-INF/MANIFEST.json"))
    manifest_text = entries[manifest_name].decode()
    manifest = json.loads(manifest_text)
    assert manifest_text == json.dumps(manifest, indent=2)
    manifest.pop("createdOn")
    digests = {name: hashlib.sha256(data).hexdigest()[:16] for name, data in entries.items() if name != manifest_name}
    return {
        "entries": dict(sorted(digests.items())),
        "manifest_name": manifest_name,
        "manifest_is_last": archive.is_dir() or list(entries)[-1] == manifest_name,
        "manifest": list(manifest.items()),
        "model": list(manifest["model"].items()),
    }


def _entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.is_dir():
        for path in archive.rglob("*"):
            if path.is_file():
                yield path.relative_to(archive).as_posix(), path.read_bytes()
    elif archive.suffix == ".mar":
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                yield name, opened.read(name)
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                content = tape.extractfile(member)
                yield member.name, content.read() if content else b""
