"""Archives of every kind, opened and inspected: one ServingError, or a model that lies in its folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.target import Choices, Target
from torchserve_lite.archive.inspection import inspect_archive
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.archive.unpacking.entries import UnpackLimits
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import ServingError
from torchserve_lite.management.specs import build_spec

_ROOM = tempfile.TemporaryDirectory(prefix="fuzz-archives-")
_ROOT = Path(_ROOM.name).resolve()
_LIMITS = UnpackLimits(entries=100, ratio=10, floor=1 << 20, total=1 << 20)
_STORE = ModelStore(folder=_ROOT / "store", scratch=_ROOT / "scratch", limits=_LIMITS)
_OUTSIDE = _ROOT / "outside"
for _folder in (_ROOT / "store", _ROOT / "scratch", _OUTSIDE):
    _folder.mkdir()
(_OUTSIDE / "secret").write_bytes(b"secret")

_MANIFEST = (
    b'{"createdOn": "1", "runtime": "python", "model": {"modelName": "m", "serializedFile": "w.pt", "handler": "h.py", '
    b'"modelFile": "n.py", "modelVersion": "1.0", "requirementsFile": "r.txt", "configFile": "c.yaml"}, '
    b'"archiverVersion": "1"}'
)
_HANDLER = b"import torch, absent\nclass H:\n    def initialize(self, c): pass\n    def handle(self, d, c): return d\n"
_MODEL = b"import torch\nclass N(torch.nn.Module):\n    pass\n"
_NAMES = (
    "h.py", "n.py", "w.pt", "r.txt", "c.yaml", "MAR-INF/MANIFEST.json", "MAR-INF/", "a/", "a/b.py", "../outside/secret",
    str(_OUTSIDE / "new"), "a/../../outside/new", "A/", "a", "./h.py", "//x", "C:/x", "a\\b", "x\0y", "\u212a", "k",
    "e\u0301", "\u00e9",
    "", ".", "/", "a" * 300, "/".join("d" * 40), "__MACOSX/._h.py", ".DS_Store", "m/h.py", "H.py",
    "mar-inf/manifest.json", "torch.py",
)  # fmt: skip
_WEIGHTS = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01."


def check(data: bytes) -> None:
    """The first byte chooses: a zip or a tar as it comes, one made entry by entry, or an honest one with odd files."""
    how = Choices(data[:1]).below(6)
    choices = Choices(data[1:])
    makers = (
        choices.rest,
        lambda: _packed_tar(choices.rest()),
        lambda: _zip(choices),
        lambda: _tar(choices),
        lambda: _files(choices),
    )
    if how == 5:
        _check_store(_folder_model(choices))
        return
    (_ROOT / "store" / "m.mar").write_bytes(makers[how]())
    _check_store("m.mar")


def _check_store(name: str) -> None:
    archive = None
    try:
        archive = _STORE.open(name)
        inspect_archive(archive)
        build_spec(archive, ServingOptions(url=name), None, WorkerConfig(), 1)
    except ServingError as error:
        assert str(error)
    finally:
        if archive is not None:
            _check_unpacked(archive.scratch)
            archive.close()
    assert sorted(os.listdir(_ROOT)) == ["outside", "scratch", "store"]
    assert os.listdir(_OUTSIDE) == ["secret"]
    assert (_OUTSIDE / "secret").read_bytes() == b"secret"
    models = _ROOT / "scratch" / "models"
    assert not models.exists() or os.listdir(models) == []
    assert os.listdir(_ROOT / "scratch") in ([], ["models"])


def _check_unpacked(folder: Path) -> None:
    total = 0
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or path.is_file()
        assert not path.stat().st_mode & 0o7022
        total += path.stat().st_size if path.is_file() else 0
    assert total <= _LIMITS.total


def _folder_model(choices: Choices) -> str:
    """In the store, one model always of the same names: what is left of the one before must not matter."""
    folder = _ROOT / "store" / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "MAR-INF").mkdir(exist_ok=True)
    for name, content in _odd_files(choices).items():
        (folder / name).write_bytes(content)
    return "folder"


def _files(choices: Choices) -> bytes:
    return _zip_of(_odd_files(choices).items())


def _odd_files(choices: Choices) -> dict[str, bytes]:
    """An honest model, one file of which is as the case has it, or damaged."""
    files = {
        "MAR-INF/MANIFEST.json": _MANIFEST,
        "h.py": _HANDLER,
        "n.py": _MODEL,
        "w.pt": _WEIGHTS,
        "r.txt": b"numpy>=1\n-r other.txt\n",
        "c.yaml": b"minWorkers: 1\n",
    }
    name = tuple(files)[choices.below(len(files))]
    if name == "w.pt" and choices.chance():
        files[name] = _zip_of([("m/data.pkl", choices.rest()), ("m/version", b"3")])
    elif choices.chance(3):
        at = choices.below(len(files[name]))
        files[name] = files[name][:at] + choices.some(choices.below(9)) + files[name][at + choices.below(9) :]
    else:
        files[name] = choices.rest()
    return files


def _zip_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def _zip(choices: Choices) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in _entries(choices):
            info = zipfile.ZipInfo(name.replace("\0", "_"))
            info.orig_filename = info.filename = name
            info.external_attr = choices.one_of((0o100644, 0o100755, 0o104755, 0o120777, 0o010644, 0o040755, 0)) << 16
            info.compress_type = choices.one_of((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
            archive.writestr(info, content)
    return _damaged(buffer.getvalue(), choices)


def _tar(choices: Choices) -> bytes:
    buffer = io.BytesIO()
    form = choices.one_of((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tape:
        for name, content in _entries(choices):
            info = tarfile.TarInfo(choices.one_of(("", "m/")) + name)
            info.type = choices.one_of(
                (*[tarfile.REGTYPE] * 6, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)
            )
            info.linkname = choices.one_of(("", str(_OUTSIDE), "../outside/secret"))
            info.mode = choices.one_of((0o644, 0o4755, 0o777))
            if form == tarfile.PAX_FORMAT and choices.chance(4):
                info.pax_headers = {
                    choices.one_of(("path", "size", "GNU.sparse.major", "linkpath")): choices.one_of(
                        ("../x", "9", "-1")
                    )
                }
            info.size = len(content) if info.isreg() else 0
            try:
                tape.addfile(info, io.BytesIO(content))
            except ValueError:  # a name that this form has no room for
                continue
    return _packed_tar(_damaged(buffer.getvalue(), choices))


def _entries(choices: Choices) -> Iterator[tuple[str, bytes]]:
    if choices.chance():
        yield "MAR-INF/MANIFEST.json", _MANIFEST
        yield "h.py", _HANDLER
    for _ in range(choices.below(6)):
        name = choices.one_of(_NAMES) if not choices.chance(4) else choices.text()
        content = bytes(choices.one_of((0, 1, 600, 300_000))) if choices.chance(4) else choices.some(choices.below(40))
        yield name, content


def _damaged(content: bytes, choices: Choices) -> bytes:
    for _ in range(choices.below(4) if choices.chance() else 0):
        back = choices.below(2)  # from the end, where a zip has its table of contents
        at = choices.below(400) if not back else max(0, len(content) - choices.below(400))
        content = content[:at] + choices.some(choices.below(5)) + content[at + choices.below(5) :]
    return content[: choices.below(len(content) + 1)] if choices.chance(16) else content


def _packed_tar(tape: bytes) -> bytes:
    """Gzip-compressed, with the checksums of its headers put right: what is behind them is the subject."""
    blocks = bytearray(tape)
    at = 0
    while at + 512 <= len(blocks):
        block = blocks[at : at + 512]
        if block.strip(b"\0"):
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
        size = block[124:136].strip(b"\0 ")
        length = int(size, 8) if size.isdigit() and not size.strip(b"01234567") else 0
        at += 512 + -(-length // 512) * 512
    return gzip.compress(bytes(blocks), 1)


def _seeds() -> list[bytes]:
    honest = _zip_of(
        [
            ("MAR-INF/MANIFEST.json", _MANIFEST),
            ("h.py", _HANDLER),
            ("n.py", _MODEL),
            ("w.pt", _WEIGHTS),
            ("c.yaml", b"a: 1"),
        ]
    )
    tape = io.BytesIO()
    with tarfile.open(fileobj=tape, mode="w") as archive:
        for name, content in (("m/MAR-INF/MANIFEST.json", _MANIFEST), ("m/" + "long" * 40 + ".py", _HANDLER)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    seeds = [b"\0" + honest, b"\0" + gzip.compress(tape.getvalue()), b"\1" + tape.getvalue()[:5120]]
    files = (_MANIFEST, _HANDLER, _MODEL, _WEIGHTS, b"numpy\n-e .\n", b"a: 1\n")
    seeds += [bytes([form, number, 0, 0]) + content for form in (4, 5) for number, content in enumerate(files)]
    seeds += [bytes([4, 3, 1]) + _WEIGHTS]
    return seeds + [bytes([2 + i % 2]) + bytes([i, i // 2, 3, i % 11, 9]) * 12 for i in range(0, 250, 7)]


TARGETS = {
    "archives": Target(
        check=check,
        seeds=_seeds(),
        words=[
            b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"ustar\0", b"ustar  \0", b"././@LongLink",
            b"30 path=x\n",
            b'"model":', b'"handler":', b'"../x"', b"null", b"import ", b"class X:\n", b"def handle(d, c):\n",
            b"async ", b"\\u0000",
            b"\x80\x02", b"c__builtin__\neval\n", b"cos\nsystem\n", b"--hash=sha256:", b"-r r.txt\n",
            b"git+https://x", b"(" * 200, b"0" * 5000,
            json.dumps("\ud800").encode(), b"\0" * 512, b"\xff\xff\xff\xff",
        ],
        longest=6000,
    )
}  # fmt: skip
