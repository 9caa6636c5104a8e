"""The model store: only names in it are found, what is opened is unpacked apart and removed again."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from torchserve_lite.archive.builder import ArchiveRequest, build
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError, InvalidArchive

from .hostile import MANIFEST
from .stores import folder_of


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    (tmp_path / "store").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    store = ModelStore(folder=tmp_path / "store", scratch=tmp_path / "scratch")
    add(store, "echo")
    return store


def add(store: ModelStore, name: str, archive_format: str = "default") -> Path:
    handler = store.scratch.parent / "handler.py"
    request = ArchiveRequest(
        model_name=name,
        version="1.0",
        handler=str(handler),
        export_path=str(store.folder),
        archive_format=archive_format,
    )
    return build(request)


def unpacked(store: ModelStore) -> list[str]:
    folder = store.scratch / "models"
    return os.listdir(folder) if folder.exists() else []


@pytest.mark.parametrize("url", ["echo.mar", "sub/echo.mar", "/any/where/echo.mar", "echo.mar/", "./echo.mar"])
def test_only_the_last_part_of_the_url_counts(url: str, store: ModelStore) -> None:
    assert store.locate(url) == folder_of(store) / "echo.mar"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param("", "empty url", id="empty"),
        pytest.param("../echo.mar", "Relative path is not allowed in url: ../echo.mar", id="parent"),
        pytest.param("a/../echo.mar", "Relative path is not allowed in url: a/../echo.mar", id="parent inside"),
        pytest.param("nosuch.mar", "Model not found at: nosuch.mar", id="unknown"),
        pytest.param("http://host/echo.mar", "Given URL http://host/echo.mar does not match any allowed", id="http"),
        pytest.param("FILE:///store/echo.mar", "does not match any allowed URL(s)", id="file url"),
        pytest.param("/", "Model not found at: /", id="slash"),
        pytest.param(".", "Model not found at: .", id="the store itself"),
        pytest.param("x" * 5000, "Model not found at: xxx", id="long"),
        pytest.param("a\0b", "Model not found at: a\0b", id="nul"),
        pytest.param("%2e%2e/echo", "Model not found at: %2e%2e/echo", id="encoded"),
    ],
)
def test_url_is_refused(url: str, message: str, store: ModelStore) -> None:
    with pytest.raises(ArchiveNotFound) as refusal:
        store.locate(url)
    assert message in str(refusal.value)


def test_folder_outside_the_store_is_not_found(store: ModelStore, tmp_path: Path) -> None:
    """TorchServe takes any folder on the server's disk."""
    with pytest.raises(ArchiveNotFound, match="Model not found at"):
        store.locate(str(tmp_path / "outside"))


def test_server_without_a_store_says_so(tmp_path: Path) -> None:
    store = ModelStore(folder=None, scratch=tmp_path)

    with pytest.raises(ArchiveNotFound, match=r"^Model store has not been configured\.$"):
        store.locate("echo.mar")
    with pytest.raises(ConfigurationError, match="Model store has not been configured"):
        store.all_archives()


def test_opened_archive_lies_in_a_folder_of_its_own_until_it_is_closed(store: ModelStore) -> None:
    with store.open("echo.mar") as first, store.open("echo.mar") as second:
        assert first.path != second.path
        assert (first.path / "handler.py").is_file()
        assert len(first.digest) == 64
        assert first.digest == second.digest
        assert {first.path.name, second.path.name} == set(unpacked(store))
    assert unpacked(store) == []


def test_archive_is_read_once_where_nobody_compares_digests(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """To hash 400 MB takes a seventh of the time until the first answer."""
    monkeypatch.setattr(hashlib, "sha256", None)
    with replace(store, digests=False).open("echo.mar") as archive:
        assert archive.digest == ""
        assert (archive.path / "handler.py").is_file()


def test_folder_of_the_store_is_used_where_it_lies(store: ModelStore) -> None:
    folder = add(store, "plain", "no-archive")

    with store.open("plain") as archive:
        assert archive.path == folder
        assert archive.is_folder
        assert archive.digest == ""
        assert archive.manifest.model_name == "plain"
        assert os.listdir(archive.scratch) == []
    assert (folder / "handler.py").is_file()
    assert unpacked(store) == []


def test_folder_around_a_model_folder_is_stepped_into(store: ModelStore) -> None:
    """The layout SageMaker makes."""
    (folder_of(store) / "around").mkdir()
    add(store, "inner", "no-archive").rename(folder_of(store) / "around/inner")

    with store.open("around") as archive:
        assert archive.path == folder_of(store) / "around/inner"


def test_folder_around_the_content_of_an_archive_is_stepped_into(store: ModelStore) -> None:
    """What comes of zipping the folder instead of what is in it; TorchServe finds no manifest then."""
    with zipfile.ZipFile(folder_of(store) / "wrapped.mar", "w") as archive:
        archive.writestr("inner/MAR-INF/MANIFEST.json", MANIFEST)

    with store.open("wrapped.mar") as opened:
        assert opened.path.name == "inner"
        assert opened.manifest.model_name == "m"
        assert not opened.is_folder
    assert unpacked(store) == []


def test_archive_of_a_built_in_handler_alone_is_not_stepped_into(store: ModelStore) -> None:
    build(ArchiveRequest(model_name="b", version="1", handler="base_handler", export_path=str(store.folder)))

    with store.open("b.mar") as archive:
        assert archive.manifest.model_name == "b"


def test_suffix_does_not_matter(store: ModelStore) -> None:
    (folder_of(store) / "echo.mar").rename(folder_of(store) / "echo.model")

    with store.open("echo.model") as archive:
        assert archive.manifest.model_name == "echo"


def test_broken_archive_leaves_nothing_and_names_itself(store: ModelStore) -> None:
    (folder_of(store) / "echo.mar").write_bytes(b"PK\3\4rubbish")

    with pytest.raises(InvalidArchive, match=r"^echo\.mar: is not a whole zip file"):
        store.open("echo.mar")
    assert unpacked(store) == []


def test_all_archives_are_those_torchserve_loads_sorted(store: ModelStore) -> None:
    for name in ("z.tgz", "b.tar.gz", "c.model", "notes.txt", ".hidden.mar", "w.war"):
        (folder_of(store) / name).touch()
    add(store, "folder", "no-archive")

    assert store.all_archives() == ["b.tar.gz", "c.model", "echo.mar", "folder", "z.tgz"]


def test_workflow_archive_in_a_model_store_is_passed_over_without_a_word(
    store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The store of models is that of workflows, too, where no other is named."""
    (folder_of(store) / "w.war").touch()
    assert store.all_archives() == ["echo.mar"]
    assert caplog.messages == []


STRAYS = {
    "empty folder": lambda path: path.mkdir(),
    "folder of folders": lambda path: (path / "a/b").mkdir(parents=True),
    "folder of notes": lambda path: (path.mkdir(), (path / "notes.txt").touch()),
    "text": lambda path: path.write_text("hello"),
    "weights": lambda path: path.with_suffix(".pt").touch(),
    "named pipe": lambda path: os.mkfifo(path.with_suffix(".mar")),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path.with_suffix(".mar"))),
    "dangling link": lambda path: path.with_suffix(".mar").symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path),
    "hidden": lambda path: path.with_name(".stray").mkdir(),
}


@pytest.mark.parametrize("make", STRAYS.values(), ids=STRAYS.keys())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_stray_thing_in_a_store_is_passed_over_and_told(
    make: Callable[[Path], object], store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty lost+found kept /ping at 500 for ever."""
    make(folder_of(store) / "stray")

    assert store.all_archives() == ["echo.mar"]
    (told,) = caplog.messages
    assert "skips" in told
    assert "stray" in told


def test_folder_that_cannot_be_read_is_passed_over(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    add(store, "locked", "no-archive")
    monkeypatch.setattr("torchserve_lite.archive.store._model_folder", refuse)
    assert store.all_archives() == ["echo.mar"]
    assert "'locked' (cannot be read: Permission denied)" in caplog.text


def test_folder_without_a_manifest_is_loaded_when_a_default_handler_can_serve_it(store: ModelStore) -> None:
    (folder_of(store) / "weights").mkdir()
    (folder_of(store) / "weights/model.pt").touch()
    (folder_of(store) / "lost+found").mkdir()

    assert store.all_archives(manifest_needed=False) == ["echo.mar", "weights"]


def test_orderly_store_has_nothing_told(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.all_archives() == ["echo.mar"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), KeyError("maybe"), RecursionError(), MemoryError()], ids=repr
)
def test_whatever_is_raised_while_an_archive_is_read_is_about_it_alone(
    error: Exception, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a: !!bool maybe` in one model-config.yaml ended the start of all models."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("torchserve_lite.archive.store.Manifest.read", fail)
    with pytest.raises(InvalidArchive, match=r"^echo\.mar: cannot be read: "):
        store.open("echo.mar")
    assert unpacked(store) == []


def desktop_entries(inner: str) -> dict[str, str]:
    """What the desktops of macOS and Windows put into a zip of a folder."""
    return {
        f"{inner}/": "",
        f"{inner}/MAR-INF/MANIFEST.json": MANIFEST,
        f"{inner}/handler.py": "",
        f"{inner}/.DS_Store": "x",
        f"__MACOSX/{inner}/._handler.py": "x",
        f"__MACOSX/._{inner}": "x",
        ".DS_Store": "x",
        "Thumbs.db": "x",
        "desktop.ini": "x",
        f"._{inner}": "x",
    }


def write_zip(path: Path, entries: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write_tar(path: Path, entries: dict[str, str], prefix: str = "") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(prefix + name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))


def write_folder(path: Path, entries: dict[str, str]) -> None:
    for name, content in entries.items():
        if not name.endswith("/"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(content)


@pytest.mark.parametrize("inner", ["mnist", "My Model"])
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_zip, id="zip"),
        pytest.param(write_tar, id="tar"),
        pytest.param(lambda path, entries: write_tar(path, entries, "./"), id="tar from a dot"),
        pytest.param(lambda path, entries: write_tar(path, entries, "around/"), id="tar with a folder around"),
        pytest.param(write_folder, id="folder"),
    ],
)
def test_archive_that_a_desktop_made_is_understood(
    write: Callable[[Path, dict[str, str]], None], inner: str, store: ModelStore
) -> None:
    write(folder_of(store) / "desktop.mar", desktop_entries(inner))

    with store.open("desktop.mar") as archive:
        assert archive.manifest.model_name == "m"
        assert (archive.path / "handler.py").is_file()
    assert "desktop.mar" in store.all_archives()


def test_missing_store_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="gone cannot be read"):
        ModelStore(folder=tmp_path / "gone", scratch=tmp_path).all_archives()
