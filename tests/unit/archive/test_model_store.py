"""The model store: only names in it are found, what is opened is unpacked apart and removed again."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from torchserve_lite.archive.builder import ArchiveRequest, build
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.errors import ArchiveNotFound, ConfigurationError, InvalidArchive

from .hostile import MANIFEST


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
    assert store.locate(url) == store.folder / "echo.mar"


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
    (store.folder / "around").mkdir()
    add(store, "inner", "no-archive").rename(store.folder / "around/inner")

    with store.open("around") as archive:
        assert archive.path == store.folder / "around/inner"


def test_folder_around_the_content_of_an_archive_is_stepped_into(store: ModelStore) -> None:
    """What comes of zipping the folder instead of what is in it; TorchServe finds no manifest then."""
    with zipfile.ZipFile(store.folder / "wrapped.mar", "w") as archive:
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
    (store.folder / "echo.mar").rename(store.folder / "echo.model")

    with store.open("echo.model") as archive:
        assert archive.manifest.model_name == "echo"


def test_broken_archive_leaves_nothing_and_names_itself(store: ModelStore) -> None:
    (store.folder / "echo.mar").write_bytes(b"PK\3\4rubbish")

    with pytest.raises(InvalidArchive, match=r"^echo\.mar: is not a whole zip file"):
        store.open("echo.mar")
    assert unpacked(store) == []


def test_all_archives_are_those_torchserve_loads_sorted(store: ModelStore) -> None:
    for name in ("z.tgz", "b.tar.gz", "c.model", "notes.txt", ".hidden.mar", "w.war"):
        (store.folder / name).touch()
    for name in ("folder", ".git"):
        (store.folder / name).mkdir()

    assert store.all_archives() == ["b.tar.gz", "c.model", "echo.mar", "folder", "z.tgz"]


def test_missing_store_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="gone cannot be read"):
        ModelStore(folder=tmp_path / "gone", scratch=tmp_path).all_archives()
