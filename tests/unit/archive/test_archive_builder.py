"""Archives we build are those of torch-model-archiver 0.12, entry for entry and manifest key for key."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path

import pytest

from torchserve_lite.archive.builder import ArchiveRequest, build, contents
from torchserve_lite.archive.store import ModelStore
from torchserve_lite.cli.archive import add_arguments
from torchserve_lite.errors import BadRequest, Conflict, NotFound

from .archiver_cases import CASES, FORMATS, make_sources, summed_up

RECORDED = json.loads(Path(__file__).with_name("archiver_recording.json").read_text())


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    make_sources(folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def request_for(target: Path, *arguments: str) -> ArchiveRequest:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return ArchiveRequest(**vars(parser.parse_args([*arguments, "--export-path", str(target)])))


def simple(target: Path, **changes: object) -> ArchiveRequest:
    fields = {"model_name": "mnist", "version": "1.0", "handler": "handler.py", "export_path": str(target)}
    return ArchiveRequest(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_archive_is_that_of_torch_model_archiver(case: str, form: str, sources: Path, target: Path) -> None:
    built = build(request_for(target, *CASES[case], "--archive-format", form))

    assert json.loads(json.dumps(summed_up(built))) == RECORDED[f"{case} {form}"]
    assert os.listdir(target) == [built.name]


@pytest.mark.parametrize("form", FORMATS)
def test_archive_opens_in_our_store_whatever_its_format(form: str, sources: Path, target: Path) -> None:
    built = build(request_for(target, *CASES["everything"], "--archive-format", form))

    with ModelStore(folder=target, scratch=target.parent / "scratch").open(built.name) as archive:
        assert (archive.path / "sub/deeper/file.txt").read_text() == "deeper"
        assert archive.manifest.model_name == "mnist"
        assert archive.config.options.min_workers == 1


def test_weights_that_hardly_shrink_are_stored_and_the_rest_is_compressed(sources: Path, target: Path) -> None:
    """Inflating them at each start takes five times as long as reading them."""
    Path("weights.bin").write_bytes(os.urandom(2_000_000))
    Path("vocabulary.txt").write_bytes(b"the quick brown fox " * 100_000)
    Path("small.bin").write_bytes(os.urandom(1000))
    built = build(simple(target, extra_files="weights.bin,vocabulary.txt,small.bin"))

    with zipfile.ZipFile(built) as archive:
        stored = {info.filename for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED}
        assert stored - {"MAR-INF/MANIFEST.json"} == {"weights.bin"}
        assert archive.testzip() is None


def test_existing_archive_is_kept_without_force(sources: Path, target: Path) -> None:
    (target / "mnist.mar").write_text("precious")

    with pytest.raises(Conflict, match=r"mnist\.mar already exists\.\nPlease specify --force/-f option"):
        build(simple(target))
    assert (target / "mnist.mar").read_text() == "precious"


def test_existing_archive_is_replaced_by_force(sources: Path, target: Path, caplog: pytest.LogCaptureFixture) -> None:
    (target / "mnist.mar").write_text("old")

    assert "handler.py" in summed_up(build(simple(target, force=True)))["entries"]
    assert "Overwriting" in caplog.text


def test_old_archive_survives_when_packing_fails(sources: Path, target: Path) -> None:
    (target / "mnist.mar").write_text("old")

    def fail(packed: int, total: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build(simple(target, force=True), fail)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"mnist.mar": "old"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param({"handler": "absent"}, NotFound, r"--handler: there is no file absent\.py", id="handler"),
        pytest.param({"serialized_file": "extra"}, NotFound, "--serialized-file: extra is a folder", id="weights"),
        pytest.param({"extra_files": "labels.json,absent"}, NotFound, "File does not exist: absent", id="extra file"),
        pytest.param({"model_name": "../up"}, BadRequest, "Model name contains special characters", id="name"),
        pytest.param(
            {"export_path": "nowhere"}, BadRequest, "export-path nowhere is not a directory", id="export path"
        ),
    ],
)
def test_request_is_refused_with_its_flag(
    changes: dict[str, str], error: type[Exception], message: str, sources: Path, target: Path
) -> None:
    with pytest.raises(error, match=message):
        build(simple(target, **changes))
    assert os.listdir(target) == []


def test_folder_named_like_the_model_in_the_temporary_folder_is_left_alone(
    sources: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch-model-archiver empties ``<tmp>/<model-name>``; a model called "models" deleted what a server unpacked."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/precious").touch()

    build(simple(target))
    assert (tmp_path / "mnist/precious").exists()


def test_handler_may_be_named_with_suffix_and_function(sources: Path, target: Path) -> None:
    """The original looks for a file called ``handler.py:handle``."""
    summary = summed_up(build(simple(target, handler="handler.py:handle")))

    assert "handler.py" in summary["entries"]
    assert dict(summary["model"])["handler"] == "handler.py:handle"


def test_manifest_among_the_extra_files_gives_way_to_the_new_one(sources: Path, target: Path) -> None:
    (sources / "extra/MAR-INF").mkdir()
    (sources / "extra/MAR-INF/MANIFEST.json").write_text("{}")

    assert dict(summed_up(build(simple(target, extra_files="extra")))["model"])["modelName"] == "mnist"


def test_circle_of_links_among_the_extra_files_is_refused(sources: Path) -> None:
    (sources / "extra/sub/again").symlink_to(sources / "extra")

    with pytest.raises(BadRequest, match="again is a link to a folder around it"):
        contents(simple(sources, extra_files="extra"))


def test_tar_names_nobody_who_built_it(sources: Path, target: Path) -> None:
    import tarfile

    with tarfile.open(build(simple(target, archive_format="tgz"))) as tape:
        assert {(member.uid, member.gid, member.uname, member.gname) for member in tape} == {(0, 0, "", "")}


def test_progress_ends_at_the_size_of_the_contents(sources: Path, target: Path) -> None:
    told: list[tuple[int, int]] = []
    request = simple(target, serialized_file="weights.pt")
    build(request, lambda packed, total: told.append((packed, total)))

    size = contents(request).size
    assert told[-1] == (size, size)
