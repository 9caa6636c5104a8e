"""Asks for archives over HTTP: redirect by redirect, from allowed addresses only, with an end to every wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from torchserve_lite import __version__
from torchserve_lite.config.settings import DownloadConfig
from torchserve_lite.errors import ArchiveNotFound, BadRequest, DownloadFailed
from torchserve_lite.management.allowed_urls import AddressGuard, AllowedUrls, shown
from torchserve_lite.management.s3_signing import signed_headers

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TARS = (".tar.gz", ".tgz")
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"torchserve-lite/{__version__}"}


@dataclass(frozen=True, slots=True)
class Content:
    """What is being sent to us; ``size`` is what it is said to be. Its ``pieces`` are never unpacked on the way."""

    size: int | None
    pieces: AsyncIterator[bytes]


class Downloads:
    """``resolver``: for tests; the system's otherwise."""

    def __init__(
        self, config: DownloadConfig, allowed: AllowedUrls, resolver: Callable[[], AbstractResolver] | None = None
    ) -> None:
        self._config = config
        self._allowed = allowed
        self._resolver = resolver

    @asynccontextmanager
    async def content(self, url: URL, *, signed: bool) -> AsyncIterator[Content]:
        """Of ``url``, which has been checked. DownloadFailed, also out of reading the pieces; ArchiveNotFound when it
        redirects to where nothing may be fetched."""
        try:
            async with asyncio.timeout(self._config.total_timeout), self._answer(url, signed=signed) as response:
                yield Content(_size(url, response), response.content.iter_any())
        except TimeoutError as error:  # aiohttp's own have become DownloadFailed
            limit = self._config.total_timeout
            raise DownloadFailed(shown(url), f"it takes longer than download_total_seconds={limit:g}.") from error

    @asynccontextmanager
    async def _answer(self, url: URL, *, signed: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        hop = url
        for _ in range(_MOST_REDIRECTS + 1):
            # Credentials are for the host that the caller named, whatever host it sends us to.
            headers = self._signature(hop) if signed and hop.origin() == url.origin() else {}
            async with self._response(hop, headers) as response:
                if response.status not in _REDIRECTS:
                    if response.status != 200:
                        problem = f"{_host(hop, url)} answers {response.status} {response.reason or ''}".rstrip()
                        raise DownloadFailed(shown(url), f"{problem}.")
                    yield response
                    return
                hop = self._redirected(url, hop, response.headers.get("Location", ""))
        raise DownloadFailed(shown(url), f"it redirects more than {_MOST_REDIRECTS} times.")

    @asynccontextmanager
    async def _response(self, url: URL, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """One connection for one request: each is looked up and checked anew."""
        guard = AddressGuard(self._config)
        limits = self._config
        timeout = aiohttp.ClientTimeout(total=None, connect=limits.connect_timeout, sock_read=limits.idle_timeout)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver() if self._resolver else None,
            socket_factory=guard.make_socket,
            use_dns_cache=False,
            force_close=True,
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=timeout,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,  # what is unpacked is unpacked by us, within limits
                    trust_env=False,  # a proxy would connect to addresses that we have not checked
                ) as session,
                session.get(url, allow_redirects=False, headers={**_HEADERS, **headers}) as response,
            ):
                yield response
        except aiohttp.ConnectionTimeoutError as error:
            limit = limits.connect_timeout
            problem = f"{url.host} does not take the connection within download_connect_seconds={limit:g}."
            raise DownloadFailed(shown(url), problem) from error
        except aiohttp.SocketTimeoutError as error:
            problem = f"{url.host} sends nothing for download_idle_seconds={limits.idle_timeout:g}."
            raise DownloadFailed(shown(url), problem) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a host that has no encoding
            if guard.refused is not None:
                raise DownloadFailed(
                    shown(url),
                    f"{url.host} leads to {guard.refused}, which is no public address. If archives are to be fetched "
                    "from there, add it or its network to the key allowed_url_networks.",
                ) from error
            raise DownloadFailed(shown(url), _problem(url, error)) from error

    def _redirected(self, url: URL, hop: URL, location: str) -> URL:
        if not location:
            raise DownloadFailed(shown(url), "it redirects without saying where to.")
        try:
            return self._allowed.redirect(hop, location)
        except ArchiveNotFound as error:
            raise ArchiveNotFound(f"{error} ({shown(url)} redirects to it.)") from error

    def _signature(self, url: URL) -> dict[str, str]:
        if self._config.s3 is None:
            raise BadRequest(
                "s3_sse_kms=true needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the server's environment."
            )
        return signed_headers(url, self._config.s3, datetime.now(UTC))


def _size(url: URL, response: aiohttp.ClientResponse) -> int | None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    packed_anyway = encoding in ("gzip", "x-gzip") and url.path.lower().endswith(_TARS)  # a habit of file servers
    if encoding not in ("", "identity") and not packed_anyway:
        problem = f"it is sent with Content-Encoding: {encoding!r:.40}, though none was asked for."
        raise DownloadFailed(shown(url), problem)
    return response.content_length


def _host(hop: URL, url: URL) -> str:
    return f"{hop.host}, to which it redirects," if hop.host != url.host else f"{hop.host}"


def _problem(url: URL, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host {url.host} is not known ({error.os_error.strerror})."
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {url.host} is not trusted ({error.certificate_error})."
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{url.host}:{url.port} cannot be reached ({error.os_error.strerror or error.os_error})."
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"{url.host} ends before the whole archive was sent."
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return f"{url.host} ends the connection without an answer."
    return f"{url.host} gives no usable answer ({type(error).__name__})."
