"""Archives from URLs: what is allowed is fetched, kept and loaded; whatever else happens leaves nothing behind.

The numbers are those of the project's list of bad inputs.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import logging
import os
import re
import socket
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tests.unit.archive import hostile
from tests.unit.archive.test_archive_unpacking import COLLISIONS, DAMAGED, KINDS, NAMES, Maker
from torchserve_lite.archive.store import Archive, ModelStore
from torchserve_lite.archive.unpacking.entries import UnpackLimits
from torchserve_lite.config.settings import DownloadConfig, S3Credentials
from torchserve_lite.config.values import networks, url_patterns
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import (
    ArchiveNotFound,
    BadRequest,
    Conflict,
    DownloadFailed,
    InvalidArchive,
    NoRoom,
    ServingError,
)
from torchserve_lite.management import store_files
from torchserve_lite.management.allowed_urls import AddressGuard, AllowedUrls
from torchserve_lite.management.fetching import ArchiveFetcher

from .origins import Origin, endless, origin, sending, silent

LOOPBACK = networks("127.0.0.1")
ANY = r"https?://.*, file://.*"


def archive(name: str = "m", weights: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        # ZipInfo has no time of day, so that the same content gives the same bytes.
        packed.writestr(zipfile.ZipInfo("MAR-INF/MANIFEST.json"), hostile.MANIFEST.replace('"m"', f'"{name}"'))
        packed.writestr(zipfile.ZipInfo("w.bin"), weights)
    return buffer.getvalue()


class Fetching:
    """A fetcher over an empty store, and a web server."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.store, self.scratch, self.origin = folder / "store", folder / "scratch", origin
        self.store.mkdir()
        self.fetcher = self.allowing()

    def allowing(
        self, urls: str = ANY, *, resolver: Callable[[], AbstractResolver] | None = None, **config: Any
    ) -> ArchiveFetcher[Archive]:
        values = {"allowed_url_networks": LOOPBACK, **config}
        store = ModelStore(folder=self.store, scratch=self.scratch, limits=UnpackLimits(floor=32 * 2**20, entries=1000))
        return ArchiveFetcher(store, DownloadConfig(allowed_urls=url_patterns(urls), **values), resolver)

    @property
    def kept(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.store)): path.read_bytes() for path in self.store.rglob("*") if path.is_file()
        }

    @property
    def nothing_left(self) -> bool:
        models = self.scratch / "models"
        return not list(self.store.iterdir()) and not (models.exists() and list(models.iterdir()))

    async def refused(self, url: str, kind: type[ServingError], fetcher: ArchiveFetcher[Archive] | None = None) -> str:
        """Gives the message, having seen that nothing was left anywhere."""
        with pytest.raises(kind) as refusal:
            await (fetcher or self.fetcher).open(url)
        assert self.nothing_left
        assert type(refusal.value) is kind  # the table of statuses has no entry for kinds of it
        return str(refusal.value)


@pytest.fixture
async def fetching(tmp_path: Path) -> AsyncIterator[Fetching]:
    async with origin() as served:
        yield Fetching(tmp_path, served)


# What is fetched


async def test_archive_is_opened_and_kept_under_its_name(fetching: Fetching) -> None:
    body = archive()
    opened = await fetching.fetcher.open(fetching.origin.serve("/models/mnist.mar", body))

    assert opened.manifest.model_name == "m"
    assert opened.url.endswith("/models/mnist.mar")
    assert opened.digest == hashlib.sha256(body).hexdigest()
    assert fetching.kept == {"mnist.mar": body}


async def test_query_is_sent_and_is_no_part_of_the_name(fetching: Fetching) -> None:
    url = fetching.origin.serve("/mnist.mar", archive())
    await fetching.fetcher.open(f"{url}?version=3&signature=a%2Bb")

    assert list(fetching.kept) == ["mnist.mar"]
    assert fetching.origin.requests[0].startswith("GET /mnist.mar?version=3&signature=a%2Bb HTTP/1.1\r\n")


async def test_what_a_signed_url_asks_with_is_not_logged(fetching: Fetching, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    url = fetching.origin.serve("/mnist.mar", archive())
    await fetching.fetcher.open(f"{url}?signature=precious")

    assert "precious" not in caplog.text
    assert re.search(r"Downloaded mnist\.mar: .* SHA-256 [0-9a-f]{64}\.", caplog.text)


@pytest.mark.parametrize("size", [0, 100, 5 * 2**20])
async def test_body_of_unknown_length_is_taken_to_its_end(size: int, fetching: Fetching) -> None:
    body = archive(weights=os.urandom(size))
    await fetching.fetcher.open(fetching.origin.serve("/m.mar", body, Content_Length=""))

    assert fetching.kept == {"m.mar": body}


async def test_file_url_is_copied_into_the_store(fetching: Fetching, tmp_path: Path) -> None:
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where/m.mar").write_bytes(archive())
    await fetching.fetcher.open(f"file://{tmp_path}/else%20where/m.mar")

    assert fetching.kept == {"m.mar": archive()}


@pytest.mark.parametrize("form", ["file://{}", "FILE://localhost{}", "{}"])
async def test_allowed_folder_is_served_where_it_lies(form: str, fetching: Fetching, tmp_path: Path) -> None:
    (tmp_path / "model/MAR-INF").mkdir(parents=True)
    (tmp_path / "model/MAR-INF/MANIFEST.json").write_text(hostile.MANIFEST)
    opened = await fetching.fetcher.open(form.format(tmp_path / "model"))

    assert opened.path == tmp_path / "model"
    assert fetching.kept == {}


async def test_name_in_the_store_needs_no_permission(fetching: Fetching) -> None:
    (fetching.store / "m.mar").write_bytes(archive())

    assert (await fetching.allowing("").open("/any/where/m.mar")).manifest.model_name == "m"


async def test_redirects_are_followed_one_by_one(fetching: Fetching) -> None:
    fetching.origin.serve("/there/real.mar", archive())
    fetching.origin.redirect("/two", "there/real.mar", 307)
    url = fetching.origin.redirect("/one.mar", "/two", 301)
    await fetching.fetcher.open(url)

    assert list(fetching.kept) == ["one.mar"]
    assert len(fetching.origin.requests) == 3


# What is not allowed


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://other/m.mar", id="another host"),
        pytest.param("http://good.example.evil/m.mar", id="57 host that only begins so"),
        pytest.param("http://good.example:81/m.mar", id="57 another port"),
        pytest.param("https://good.example/m.mar", id="another scheme"),
        pytest.param("http://goodXexample/m.mar", id="57 unescaped dot"),
        pytest.param("http://good.example@evil/models/m.mar", id="57 user before the host"),
        pytest.param("http://user:word@good.example/models/m.mar", id="57 user and password"),
        pytest.param("http://good.example\\@evil/models/m.mar", id="57 backslash"),
        pytest.param("http://evil/#http://good.example/models/m.mar", id="57 fragment"),
        pytest.param("http://good.example/models/%2e%2e/m.mar", id="57 encoded parent"),
        pytest.param("http://good.example/other/m.mar", id="another path"),
        pytest.param("http://good.example/models/m.mar\n", id="line feed"),
        pytest.param("http:///models/m.mar", id="no host"),
        pytest.param("http://[::1/models/m.mar", id="no URL"),
        pytest.param("https://][@//", id="no URL, in another way"),
        pytest.param("http://xn--/models/m.mar", id="57 host with broken encoding"),
        pytest.param("http://good.example/models/" + "a" * 2048, id="58 long"),
        pytest.param("gopher://good.example/models/m.mar", id="57 gopher"),
        pytest.param("s3://models/m.mar", id="s3"),
        pytest.param("fil://good.example/models/m.mar", id="fil"),
        pytest.param("file:///etc/passwd", id="57 file"),
        pytest.param("file://good.example/models/m.mar", id="file of another host"),
    ],
)
async def test_url_is_refused_before_anybody_is_asked(url: str, fetching: Fetching) -> None:
    fetcher = fetching.allowing(r"http://good\.example/models/.*", resolver=lambda: Resolver([]))
    told = await fetching.refused(url, ArchiveNotFound, fetcher)

    assert re.match(r"Given URL .* does not match any allowed URL\(s\)", told)


@pytest.mark.parametrize("url", ["http://good/m.mar.evil", "http://good/m.marhttp://good/m.mar", "xhttp://good/m.mar"])
async def test_url_must_match_as_a_whole(url: str, fetching: Fetching) -> None:
    await fetching.refused(url, ArchiveNotFound, fetching.allowing("http://good/m.mar", resolver=lambda: Resolver([])))


async def test_user_before_the_host_is_refused_whatever_is_allowed(fetching: Fetching) -> None:
    """57. A person reads the name before the @, and the request goes to the one behind it."""
    fetching.origin.serve("/m.mar", archive())
    told = await fetching.refused(f"http://good.example@127.0.0.1:{fetching.origin.port}/m.mar", ArchiveNotFound)

    assert "must not have a user's name" in told
    assert fetching.origin.requests == []


async def test_nothing_is_fetched_by_default(fetching: Fetching) -> None:
    url = fetching.origin.serve("/m.mar", archive())
    told = await fetching.refused(url, ArchiveNotFound, fetching.allowing(""))

    assert told.startswith(f"Given URL {url} does not match any allowed URL(s). ")
    assert "allowed_urls is not set" in told
    assert fetching.origin.requests == []


async def test_parent_in_a_url_is_refused_as_such(fetching: Fetching) -> None:
    told = await fetching.refused(f"{fetching.origin.url}/../m.mar", ArchiveNotFound)

    assert told.startswith("Relative path is not allowed in url: ")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_folder_outside_the_store_needs_permission(form: str, fetching: Fetching, tmp_path: Path) -> None:
    """TorchServe loads any folder of the machine, whatever allowed_urls says."""
    (tmp_path / "model/MAR-INF").mkdir(parents=True)
    fetcher = fetching.allowing("file:///else/.*")

    assert "allowed" in await fetching.refused(form.format(tmp_path / "model"), ArchiveNotFound, fetcher)


@pytest.mark.parametrize("path", ["/\ud800", "/" + "x" * 300, "/a\0b", "/proc/self/fd/99999"])
@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_path_that_cannot_be_looked_at_is_told(form: str, path: str, fetching: Fetching) -> None:
    with pytest.raises((ArchiveNotFound, DownloadFailed)):
        await fetching.fetcher.open(form.format(path))
    assert fetching.nothing_left


async def test_link_to_outside_of_what_is_allowed_is_refused(fetching: Fetching, tmp_path: Path) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret.mar").write_bytes(archive())
    (tmp_path / "allowed/m.mar").symlink_to(tmp_path / "secret.mar")
    fetcher = fetching.allowing(f"file://{tmp_path}/allowed/.*")

    told = await fetching.refused(f"file://{tmp_path}/allowed/m.mar", ArchiveNotFound, fetcher)
    assert f"It leads to {tmp_path}/secret.mar." in told


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("http://elsewhere/m.mar", id="another host"),
        pytest.param("//elsewhere/m.mar", id="another host, same scheme"),
        pytest.param("file:///etc/passwd", id="57 file"),
        pytest.param("http://169.254.169.254/latest/meta-data", id="57 metadata"),
        pytest.param("ftp://127.0.0.1/m.mar", id="another scheme"),
        pytest.param("http://[x", id="no URL"),
    ],
)
async def test_redirect_to_what_is_not_allowed_is_refused(target: str, fetching: Fetching) -> None:
    """57. TorchServe follows any redirect."""
    url = fetching.origin.redirect("/m.mar", target)
    told = await fetching.refused(url, ArchiveNotFound, fetching.allowing(r"http://127\.0\.0\.1:\d+/.*, file://.*"))

    assert "does not match any allowed URL(s)" in told
    assert f"{url} redirects to it" in told


async def test_redirect_to_the_metadata_service_is_refused_even_where_its_url_is_allowed(fetching: Fetching) -> None:
    """57."""
    url = fetching.origin.redirect("/m.mar", "http://169.254.169.254/latest/meta-data")
    told = await fetching.refused(url, DownloadFailed)

    assert "169.254.169.254 leads to 169.254.169.254, which is no public address" in told
    assert "allowed_url_networks" in told


def test_redirect_from_https_to_http_is_refused() -> None:
    allowed = AllowedUrls(DownloadConfig(allowed_urls=url_patterns(ANY)))

    assert str(allowed.redirect(URL("http://a/b/c"), "https://d/e?f#g")) == "https://d/e?f"
    assert str(allowed.redirect(URL("https://a/b/c"), "d")) == "https://a/b/d"
    with pytest.raises(ArchiveNotFound, match="asked for by https is not taken from http"):
        allowed.redirect(URL("https://a/b/c"), "http://a/b/c")


def test_expression_that_would_never_come_to_an_end_refuses_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """Python's own held the server up for as long as it took, which for one URL may be years."""
    allowed = AllowedUrls(DownloadConfig(allowed_urls=url_patterns("https://models/(a|b|ab)*c")))
    with pytest.raises(ArchiveNotFound, match="An expression of allowed_urls takes too long over it"):
        allowed.web_url(f"https://models/{'ab' * 900}")
    assert "https://models/(a|b|ab)*c of allowed_urls takes too long" in caplog.text


async def test_redirects_without_end_are_refused(fetching: Fetching) -> None:
    assert "more than 5 times" in await fetching.refused(fetching.origin.redirect("/m.mar", "/m.mar"), DownloadFailed)
    assert len(fetching.origin.requests) == 6


# Where names lead


class Resolver(AbstractResolver):
    """Gives each question the next answer."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.left = list(answers)

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        address = self.left.pop(0)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "168.63.129.16",
        "224.0.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1",
        "fd00:ec2::254",
        "ff02::1",
    ],
)
async def test_name_that_leads_to_an_address_that_is_not_public_is_refused(address: str, fetching: Fetching) -> None:
    """57."""
    fetcher = fetching.allowing(allowed_url_networks=(), resolver=lambda: Resolver([address]))
    told = await fetching.refused("http://good.example:1/m.mar", DownloadFailed, fetcher)

    assert "which is no public address" in told


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]", "[::1]", "127.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "localhost"])
async def test_spellings_of_this_machine_are_refused(host: str, fetching: Fetching) -> None:
    """57."""
    told = await fetching.refused(f"http://{host}:1/m.mar", DownloadFailed, fetching.allowing(allowed_url_networks=()))

    assert "which is no public address" in told


def test_address_is_the_same_in_both_of_its_spellings() -> None:
    guard = AddressGuard(DownloadConfig(allowed_url_networks=networks("10.0.0.0/8")))

    assert guard.allows(ip_address("::ffff:10.1.2.3"))
    assert not guard.allows(ip_address("::ffff:192.168.0.1"))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_address_is_allowed(address: str) -> None:
    assert AddressGuard(DownloadConfig()).allows(ip_address(address))


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f.1", "0177.0.0.1", "0x7f000001"])
async def test_odd_spellings_of_an_address_lead_nowhere(host: str, fetching: Fetching) -> None:
    """57."""
    await fetching.refused(
        f"http://{host}:{fetching.origin.port}/m.mar", DownloadFailed, fetching.allowing(allowed_url_networks=())
    )
    assert fetching.origin.requests == []


async def test_answer_of_the_name_server_that_changes_changes_nothing(fetching: Fetching) -> None:
    """57, rebinding: the second look-up, which nobody makes, would lead to this machine."""
    resolver = Resolver(["192.0.2.1", "127.0.0.1"])
    fetching.origin.serve("/m.mar", archive())
    fetcher = fetching.allowing(allowed_url_networks=(), resolver=lambda: resolver)
    url = f"http://good.example:{fetching.origin.port}/m.mar"

    assert "192.0.2.1" in await fetching.refused(url, DownloadFailed, fetcher)
    assert "127.0.0.1" in await fetching.refused(url, DownloadFailed, fetcher)
    assert fetching.origin.requests == []


async def test_each_redirect_is_looked_up_and_checked_anew(fetching: Fetching) -> None:
    """57, rebinding between two hops."""
    resolver = Resolver(["127.0.0.1", "127.0.0.2"])
    port = fetching.origin.port
    fetching.origin.redirect("/m.mar", f"http://good.example:{port}/again")
    fetcher = fetching.allowing(resolver=lambda: resolver)

    assert "leads to 127.0.0.2" in await fetching.refused(f"http://good.example:{port}/m.mar", DownloadFailed, fetcher)


# Answers that are none


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param(sending(b"", status="404 Not Found"), "127.0.0.1 answers 404 Not Found.", id="404"),
        pytest.param(sending(b"", status="500 Oh"), "127.0.0.1 answers 500 Oh.", id="500"),
        pytest.param(sending(b"", status="206 Partial Content"), "127.0.0.1 answers 206", id="part of it"),
        pytest.param(sending(b"", status="302 Found"), "redirects without saying where", id="redirect to nowhere"),
        pytest.param(
            sending(archive(), headers={"Content-Length": "9999"}), "ends before the whole archive", id="59 truncated"
        ),
        pytest.param(
            sending(archive(), headers={"Content-Length": str(2**62)}), "larger than max_download_size", id="59 huge"
        ),
        pytest.param(sending(archive(), headers={"Content-Length": "-1"}), "no usable answer", id="59 negative length"),
        pytest.param(
            sending(gzip.compress(bytes(10**6)), headers={"Content-Encoding": "gzip"}),
            "Content-Encoding: 'gzip'",
            id="59 gzip bomb",
        ),
        pytest.param(sending(b"", status="200 OK", headers={"X": "a" * 10**5}), "no usable answer", id="large head"),
        pytest.param(endless(), "larger than max_download_size=1000000", id="59 endless"),
    ],
)
async def test_answer_that_is_no_archive_is_told(answer: Any, fault: str, fetching: Fetching) -> None:
    fetching.origin.answers["/m.mar"] = answer
    url = f"{fetching.origin.url}/m.mar"
    told = await fetching.refused(url, DownloadFailed, fetching.allowing(max_size=10**6))

    assert fault in told
    assert told.startswith(f"Failed to download archive from: {url}: ")


async def test_body_that_is_longer_than_it_says_is_no_archive(fetching: Fetching) -> None:
    """59."""
    fetching.origin.answers["/m.mar"] = endless(announced="1000")

    with pytest.raises((DownloadFailed, InvalidArchive)):
        await fetching.fetcher.open(f"{fetching.origin.url}/m.mar")
    assert fetching.nothing_left


async def test_nobody_there_is_told(fetching: Fetching) -> None:
    told = await fetching.refused("http://127.0.0.1:1/m.mar", DownloadFailed)

    assert told.startswith("Failed to download archive from: http://127.0.0.1:1/m.mar: 127.0.0.1:1 cannot be reached")


async def test_host_that_nobody_knows_is_told(fetching: Fetching) -> None:
    class Unknown(Resolver):
        async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
            raise OSError(-2, "Name or service not known")

    fetcher = fetching.allowing(resolver=lambda: Unknown([]))
    told = await fetching.refused("http://good.example/m.mar", DownloadFailed, fetcher)
    assert "the host good.example is not known (Name or service not known)" in told


async def test_server_that_answers_no_greeting_is_given_up(fetching: Fetching) -> None:
    fetcher = fetching.allowing(connect_timeout=0.1)
    told = await fetching.refused(f"https://127.0.0.1:{fetching.origin.port}/m.mar", DownloadFailed, fetcher)
    assert "does not take the connection within download_connect_seconds=0.1" in told


async def test_server_that_hangs_up_is_told(fetching: Fetching) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None: ...

    fetching.origin.answers["/m.mar"] = hang_up
    told = await fetching.refused(f"{fetching.origin.url}/m.mar", DownloadFailed)
    assert "ends the connection without an answer" in told


async def test_web_page_is_told_as_that(fetching: Fetching) -> None:
    url = fetching.origin.serve("/m.mar", b"<!DOCTYPE html><html>Please log in</html>")

    assert "it is a web page" in await fetching.refused(url, InvalidArchive)


async def test_server_that_falls_silent_is_given_up(fetching: Fetching) -> None:
    """59."""
    fetching.origin.answers["/m.mar"] = silent(asyncio.Event(), after=b"HTTP/1.1 200 OK\r\n\r\nPK\3\4")
    fetcher = fetching.allowing(idle_timeout=0.05)

    assert "sends nothing for download_idle_seconds=0.05" in await fetching.refused(
        f"{fetching.origin.url}/m.mar", DownloadFailed, fetcher
    )


async def test_server_that_never_ends_is_given_up_after_the_total_time(fetching: Fetching) -> None:
    """59. Bytes come, so it is never idle."""
    fetching.origin.answers["/m.mar"] = endless()
    fetcher = fetching.allowing(total_timeout=0.2, max_size=2**40)

    assert "takes longer than download_total_seconds=0.2" in await fetching.refused(
        f"{fetching.origin.url}/m.mar", DownloadFailed, fetcher
    )


@pytest.mark.parametrize("coding", ["gzip", "x-gzip"])
async def test_tar_that_a_file_server_calls_gzipped_is_taken_as_it_is(
    coding: str, fetching: Fetching, tmp_path: Path
) -> None:
    tape = hostile.tar_of(tmp_path, ("m/MAR-INF/MANIFEST.json", hostile.MANIFEST.encode())).read_bytes()
    await fetching.fetcher.open(fetching.origin.serve("/m.tar.gz", tape, Content_Encoding=coding))

    assert fetching.kept == {"m.tar.gz": tape}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        *(
            pytest.param(lambda f, n=one.values[0]: hostile.zip_of(f, (n, b"x")), one.values[1], id=one.id)
            for one in NAMES
        ),
        *(
            pytest.param(
                lambda f, a=one.values[0], b=one.values[1]: hostile.zip_of(f, (a, b"1"), (b, b"2")),
                one.values[2],
                id=one.id,
            )
            for one in COLLISIONS
        ),
        *KINDS,
        *DAMAGED,
        pytest.param(lambda f: hostile.zip_of_zeros(f, 64 * 2**20), "unpacks to far more", id="11 zeros in a zip"),
        pytest.param(lambda f: hostile.tar_of_zeros(f, 64 * 2**20), "unpacks to far more", id="11 zeros in a tar"),
        pytest.param(lambda f: hostile.empty_entries(f, 2000), "more than 1,000 entries", id="11 empty entries"),
        pytest.param(lambda f: hostile.with_manifest(f, b"\xff"), "MANIFEST.json", id="16 not UTF-8"),
        pytest.param(lambda f: hostile.with_manifest(f, '{"model": {}, "model": {}}'), "MANIFEST.json", id="16 twice"),
        pytest.param(lambda f: hostile.with_manifest(f, " " * 2**21), "MANIFEST.json", id="16 huge"),
        pytest.param(
            lambda f: hostile.with_manifest(f, '{"runtime":"python","model":{"modelName":"m","handler":"../h.py"}}'),
            "handler",
            id="17 handler outside",
        ),
        pytest.param(
            lambda f: hostile.with_manifest(
                f, '{"runtime":"python","model":{"modelName":"m","handler":"h.py","serializedFile":"/etc/passwd"}}'
            ),
            "serializedFile",
            id="17 weights outside",
        ),
    ],
)
async def test_bad_archive_is_refused_and_leaves_nothing(
    make: Maker, fault: str, fetching: Fetching, tmp_path: Path
) -> None:
    """1 to 20."""
    (tmp_path / "made").mkdir()
    made = make(tmp_path / "made")
    url = fetching.origin.serve(f"/{made.name}", made.read_bytes())

    assert fault in await fetching.refused(url, InvalidArchive)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("config", ["a: !!python/object:os.system {}", "[" * 10**5])
async def test_hostile_model_config_is_refused_and_leaves_nothing(config: str, fetching: Fetching) -> None:
    """20."""
    manifest = hostile.MANIFEST.replace('"handler"', '"configFile": "c.yaml", "handler"')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", manifest)
        packed.writestr("c.yaml", config)
    url = fetching.origin.serve("/m.mar", buffer.getvalue())

    assert "c.yaml" in await fetching.refused(url, InvalidArchive)


# What is kept


async def test_file_of_the_same_content_is_used_and_not_ours_to_delete(fetching: Fetching) -> None:
    (fetching.store / "m.mar").write_bytes(archive())
    opened = await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))
    await fetching.fetcher.remove(opened)

    assert fetching.kept == {"m.mar": archive()}


async def test_file_of_other_content_is_never_replaced(fetching: Fetching) -> None:
    """TorchServe answers 500 to any file of that name."""
    (fetching.store / "m.mar").write_bytes(archive("other"))
    with pytest.raises(Conflict, match=r"already has m\.mar, and it is not what http://127"):
        await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))

    assert fetching.kept == {"m.mar": archive("other")}
    assert list((fetching.scratch / "models").iterdir()) == []


async def test_downloaded_file_is_deleted_with_the_last_model_that_uses_it(fetching: Fetching) -> None:
    url = fetching.origin.serve("/m.mar", archive())
    first, second, by_name = [await fetching.fetcher.open(name) for name in (url, url, "m.mar")]
    for opened in (first, by_name):
        await fetching.fetcher.remove(opened)
        assert fetching.kept == {"m.mar": archive()}
    await fetching.fetcher.remove(second)

    assert fetching.nothing_left


async def test_archive_of_the_store_is_not_deleted(fetching: Fetching) -> None:
    (fetching.store / "m.mar").write_bytes(archive())
    await fetching.fetcher.remove(await fetching.fetcher.open("m.mar"))

    assert fetching.kept == {"m.mar": archive()}


async def test_file_that_somebody_has_put_in_the_place_of_ours_is_not_deleted(fetching: Fetching) -> None:
    opened = await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))
    (fetching.store / "new").write_bytes(archive("theirs"))
    (fetching.store / "new").replace(fetching.store / "m.mar")
    await fetching.fetcher.remove(opened)

    assert fetching.kept == {"m.mar": archive("theirs")}


async def test_several_who_want_one_url_at_once_all_get_it(fetching: Fetching) -> None:
    url = fetching.origin.serve("/m.mar", archive())
    opened = await asyncio.gather(*(fetching.fetcher.open(url) for _ in range(5)))

    assert len({one.path for one in opened}) == 5
    assert fetching.kept == {"m.mar": archive()}
    for one in opened:
        await fetching.fetcher.remove(one)
    assert fetching.nothing_left


async def test_file_that_has_changed_is_opened_again_without_fetching(fetching: Fetching) -> None:
    """``--watch``."""
    first = await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))
    (fetching.store / "m.mar").write_bytes(archive("changed"))
    again = await fetching.fetcher.reopen(first.url)

    assert (again.manifest.model_name, again.url) == ("changed", first.url)
    assert len(fetching.origin.requests) == 1


async def test_file_that_is_being_asked_for_again_is_not_deleted(fetching: Fetching) -> None:
    """And the one whose model is unregistered does not wait for a download of any length."""
    opened = await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))
    async with downloading(fetching) as task:
        await fetching.fetcher.remove(opened)
        assert fetching.kept["m.mar"] == archive()
        task.cancel()
        await asyncio.wait([task])
    assert fetching.nothing_left


async def test_model_that_is_not_served_on_leaves_the_file_for_others(fetching: Fetching) -> None:
    """Closed, not removed: what a stop does."""
    (await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))).close()

    assert fetching.kept == {"m.mar": archive()}


@pytest.mark.parametrize("path", ["/.hidden", "/", "", "/" + "x" * 201])
async def test_url_whose_last_part_is_no_file_name_is_refused(path: str, fetching: Fetching) -> None:
    assert "under its last part" in await fetching.refused(fetching.origin.url + path, DownloadFailed)


async def test_escapes_in_the_last_part_stay_as_they_are(fetching: Fetching) -> None:
    """A snapshot names the file by the last part of the URL."""
    await fetching.fetcher.open(fetching.origin.serve("/a%2Fb%20c.mar", archive()))

    assert list(fetching.kept) == ["a%2Fb%20c.mar"]


async def test_file_changed_between_hashing_and_loading_is_refused(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """22. What was hashed is what is loaded."""
    finish = store_files.PartFile.finish

    def finish_and_swap(part: store_files.PartFile) -> None:
        finish(part)
        part.path.write_bytes(archive("evil"))

    monkeypatch.setattr(store_files.PartFile, "finish", finish_and_swap)
    url = fetching.origin.serve("/m.mar", archive())

    assert "was changed by somebody" in await fetching.refused(url, InvalidArchive)


async def test_file_system_without_hard_links_keeps_archives_too(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    url = fetching.origin.serve("/m.mar", archive())
    for _ in range(2):
        await fetching.fetcher.open(url)

    assert fetching.kept == {"m.mar": archive()}


async def test_archive_that_does_not_fit_is_not_even_begun(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    url = fetching.origin.serve("/m.mar", archive())

    assert "has room for 10 bytes" in await fetching.refused(url, NoRoom)


async def test_store_that_cannot_be_written_is_told(fetching: Fetching) -> None:
    fetching.store.rmdir()
    with pytest.raises(InvalidArchive, match=r"m\.mar: cannot be kept in the model store .*: No such file"):
        await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()))


async def test_what_a_killed_server_left_is_removed_at_the_next_start(fetching: Fetching) -> None:
    part = store_files.PartFile(fetching.store, "m.mar")
    part.open()
    async with fetching.allowing():
        assert part.path.exists()  # it is being written
    part._file.close()
    async with fetching.allowing():
        assert fetching.nothing_left


# Ends


@asynccontextmanager
async def downloading(fetching: Fetching) -> AsyncIterator[asyncio.Task[Any]]:
    """Half of an archive has come, and the rest does not."""
    begun = asyncio.Event()
    fetching.origin.answers["/m.mar"] = silent(begun, after=b"HTTP/1.1 200 OK\r\n\r\n" + archive()[:50])
    task = asyncio.create_task(fetching.fetcher.open(f"{fetching.origin.url}/m.mar"))
    await begun.wait()
    yield task


async def test_download_that_is_cancelled_while_its_file_is_made_leaves_nothing(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread made it all the same, and nobody removed it until the next start."""
    made, let_go, open_file = threading.Event(), threading.Event(), store_files.PartFile.open

    def open_slowly(part: store_files.PartFile) -> None:
        open_file(part)
        made.set()
        let_go.wait(60)

    monkeypatch.setattr(store_files.PartFile, "open", open_slowly)
    task = asyncio.create_task(fetching.fetcher.open(fetching.origin.serve("/m.mar", archive())))
    await asyncio.to_thread(made.wait, 60)
    task.cancel()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fetching.nothing_left


async def test_download_that_is_cancelled_leaves_nothing(fetching: Fetching) -> None:
    async with downloading(fetching) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert fetching.nothing_left


async def test_second_in_line_is_served_when_the_first_gives_up(fetching: Fetching) -> None:
    async with downloading(fetching) as first:
        second = asyncio.create_task(fetching.fetcher.open(f"{fetching.origin.url}/m.mar"))
        fetching.origin.serve("/m.mar", archive())
        first.cancel()
        assert (await second).manifest.model_name == "m"


async def test_unpacking_that_nobody_waits_for_is_interrupted_and_closed(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    open_at = ModelStore.open_at

    def wait_then_open(store: ModelStore, url: str, path: Path) -> Any:
        loop.call_soon_threadsafe(begun.set)
        for _ in range(1000):
            try:
                store.interruption.wait(0.01)
            except ServingError:
                break
        return open_at(ModelStore(folder=store.folder, scratch=store.scratch), url, path)

    monkeypatch.setattr(ModelStore, "open_at", wait_then_open)
    task = asyncio.create_task(fetching.fetcher.open(fetching.origin.serve("/m.mar", archive())))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fetching.nothing_left


# S3


async def test_request_is_signed_for_the_host_that_was_named_only(fetching: Fetching) -> None:
    async with origin() as other:
        other.serve("/m.mar", archive())
        fetching.origin.redirect("/two", f"{other.url}/m.mar")
        url = fetching.origin.redirect("/m.mar", "/two")
        fetcher = fetching.allowing(s3=S3Credentials(access_key="AK", secret_key="hush", session_token="token"))
        await fetcher.open(url, s3_sse_kms=True)

        assert all("Authorization: AWS4-HMAC-SHA256 Credential=AK/" in head for head in fetching.origin.requests)
        assert "x-amz-security-token: token" in fetching.origin.requests[0]
        assert not re.search("authorization|x-amz", other.requests[0], re.IGNORECASE)
        assert not any("hush" in head for head in fetching.origin.requests)


async def test_request_is_signed_only_when_that_was_asked_for(fetching: Fetching) -> None:
    fetcher = fetching.allowing(s3=S3Credentials(access_key="AK", secret_key="hush"))
    await fetcher.open(fetching.origin.serve("/m.mar", archive()))

    assert "Authorization" not in fetching.origin.requests[0]


async def test_missing_credentials_are_told(fetching: Fetching) -> None:
    with pytest.raises(BadRequest, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        await fetching.fetcher.open(fetching.origin.serve("/m.mar", archive()), s3_sse_kms=True)
    assert fetching.nothing_left


def test_stop_of_the_server_interrupts_what_is_unpacked() -> None:
    from torchserve_lite.management.fetching import _GivenUp

    everything = Interruption()
    one = _GivenUp(everything)
    everything.interrupt()
    with pytest.raises(ServingError):
        one.check()
