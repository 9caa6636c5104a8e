"""Broken archives at start: each is named with its fault, and the good model beside them is served."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECHO = "def handle(data, context):\n    return None if data is None else [bytes(row['body']) for row in data]\n"
MANIFEST = json.dumps(
    {"runtime": "python", "model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"}}
)


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {"MAR-INF/MANIFEST.json": MANIFEST.encode(), "handler.py": ECHO.encode(), **files}.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_traversal() -> bytes:
    return zipped(**{"../escaped.txt": b"x"})


def with_symlink() -> bytes:
    buffer = io.BytesIO(zipped())
    with zipfile.ZipFile(buffer, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def truncated() -> bytes:
    return zipped(**{"weights.pt": bytes(range(256)) * 400})[:-300]


def bomb() -> bytes:
    """600 MiB of zeros in 600 kB."""
    buffer = io.BytesIO(zipped())
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as zeros:
        for _ in range(600):
            zeros.write(bytes(1 << 20))
    return buffer.getvalue()


def without_manifest() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("handler.py", ECHO)
    return buffer.getvalue()


def tar_with_link_out() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        link = tarfile.TarInfo("m/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../escaped"
        archive.addfile(link)
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "traversal.mar": (with_traversal, r"\.\./escaped.txt"),
    "symlink.mar": (with_symlink, "link"),
    "truncated.mar": (truncated, "truncated|not a zip|cut short|incomplete"),
    "bomb.mar": (bomb, "zeros|unpack"),
    "nomanifest.mar": (without_manifest, "MANIFEST.json|handler"),
    "tarlink.tar.gz": (tar_with_link_out, "link"),
}
IMPORT_ERROR = "import json\nimport a_package_nobody_has\n\ndef handle(data, context):\n    return data\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("bad")
    store = folder / "store"
    write_model(store, "good", ECHO + "print('loaded')\n")
    write_model(store, "broken_import", IMPORT_ERROR, config="maxRetryTimeoutInSec: 0\n")
    for name, (make, _) in BAD.items():
        (store / name).write_bytes(make())
    async with running(folder, store, {}) as server:
        yield server


@pytest.mark.parametrize("name", BAD)
async def test_bad_archive_is_named_with_its_fault(server: Server, name: str) -> None:
    line = await server.line(rf"failed: {name.split('.')[0]}: ")
    assert name in line
    await server.line(rf"failed: {name.split('.')[0]}: .*({BAD[name][1]})")


async def test_nothing_is_written_outside(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert not list(tmp_path_factory.getbasetemp().rglob("escaped*"))


async def test_good_model_is_served_beside_bad_ones(server: Server) -> None:
    assert await server.post("/predictions/good", b"hello") == (200, b"hello")


async def test_health_is_not_well_while_a_model_is_missing(server: Server) -> None:
    status, health = await server.get("/ping")
    assert (status, health["status"]) == (500, "Unhealthy")  # type: ignore[index]
    assert (await server.get("/v2/health/ready"))[0] == 503
    assert (await server.get("/v2/models/good/ready"))[0] == 200


async def test_import_error_is_logged_with_the_handlers_own_frames_first(server: Server) -> None:
    await server.line("ModuleNotFoundError: No module named 'a_package_nobody_has'")
    start = next(
        index for index, line in enumerate(server.lines) if "broken_import" in line and "could not load" in line
    )
    trace = server.lines[start + 1 : start + 5]
    assert trace[0].strip() == "Traceback (most recent call last):"
    assert "handler.py" in trace[1]
    assert "line 2" in trace[1]


async def test_what_a_worker_prints_is_logged_under_its_own_name(server: Server) -> None:
    await server.line(r"\[INFO \] W-\d+-good_1.0-stdout MODEL_LOG - loaded")


async def test_model_that_cannot_load_is_refused_with_the_cause(server: Server) -> None:
    await server.line("not tried again")
    status, body = await server.post("/predictions/broken_import", b"x")
    assert status == 503
    assert "a_package_nobody_has" in body["message"]  # type: ignore[index]
