"""Which URLs archives may be fetched from, and which addresses a connection for that may go to.

The two are separate on purpose. A regular expression is about names, and a name can lead anywhere: to this machine, to
a cloud's metadata service, to a database nearby. So every address is checked as well, at the moment it is connected to.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from pathlib import Path
from urllib.parse import unquote

from aiohttp import AddrInfoType
from yarl import URL

from torchserve_lite.config.settings import DownloadConfig
from torchserve_lite.config.values import without_credentials
from torchserve_lite.errors import ArchiveNotFound

log = logging.getLogger(__name__)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_URL = 2048  # an expression that backtracks takes longer with every character
_LONGEST_MATCH = 0.1  # seconds of one expression: nothing else runs meanwhile
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")  # on these, parsers of URLs disagree
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_AS_PUBLIC_AS_THEY_LOOK = (ipaddress.ip_network("168.63.129.16/32"),)  # every Azure machine's own host


class AllowedUrls:
    """``allowed_urls``: what is fetched must match one of its expressions as a whole, in any case of letters."""

    def __init__(self, config: DownloadConfig) -> None:
        self._patterns = config.allowed_urls

    def web_url(self, url: str) -> URL:
        """``url`` in the one form in which it is then asked for; ArchiveNotFound when that may not be."""
        if len(url) > _LONGEST_URL:
            raise self._refused(f"{url[:60]}...", f"It is longer than {_LONGEST_URL} characters.")
        if _FORBIDDEN.search(url):
            raise self._refused(ascii(url)[1:-1], "It holds blanks, backslashes or control characters.")
        try:
            parsed = URL(url).with_fragment(None)
            host = parsed.host  # decoded only now, which may fail as well
        except (ValueError, IndexError) as error:  # IndexError: yarl's, at https://][@
            raise self._refused(url, f"It is no URL: {error}.") from error
        if parsed.scheme not in ("http", "https"):
            raise self._refused(url, "Archives are fetched from http, https and file URLs.")
        if not host:
            raise self._refused(url, "It names no host.")
        if parsed.user is not None or parsed.password is not None:
            raise self._refused(shown(parsed), "It must not have a user's name before the host.")
        if ".." in str(parsed) or not self._match(str(parsed), shown(parsed)):
            raise self._refused(shown(parsed))
        return parsed

    def redirect(self, start: URL, location: str) -> URL:
        """Where a redirect from ``start`` leads; ArchiveNotFound when nobody may follow it."""
        try:
            target = str(start.join(URL(location)))
        except (ValueError, IndexError) as error:
            raise self._refused(ascii(location[:80])[1:-1], f"It is no URL: {error}.") from error
        following = self.web_url(target)
        if start.scheme == "https" and following.scheme == "http":
            raise self._refused(shown(following), "What is asked for by https is not taken from http.")
        return following

    def local_path(self, url: str) -> Path:
        """Where a ``file:`` URL or an absolute path leads when links are followed: that is then opened."""
        path = url
        if not url.startswith("/"):
            host, slash, rest = url[len("file://") :].partition("/")
            path = unquote(slash + rest)
            if host.lower() not in ("", "localhost") or not slash:
                raise self._refused(url, "A file URL is file:///absolute/path.")
        if len(url) > _LONGEST_URL or "\0" in path or ".." in path:
            raise self._refused(f"{url[:60]}...", "It cannot be a path.")
        try:
            found = Path(path).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links; text that has no encoding
            raise self._refused(url, "It leads nowhere.") from error
        if not self._match(f"file://{found}", url):
            raise self._refused(url, "" if str(found) == path else f"It leads to {found}.")
        return found

    def _match(self, url: str, told: str) -> bool:
        """``told``: what the client may be told that it was refused."""
        for pattern in self._patterns:
            try:
                if pattern.fullmatch(url, timeout=_LONGEST_MATCH):
                    return True
            except TimeoutError as error:
                log.warning(
                    "The expression %s of allowed_urls takes too long over %s, which is refused. Write it without a "
                    "repetition inside a repetition, such as (.*/)*.",
                    without_credentials("allowed_urls", pattern.pattern),
                    told,
                )
                reason = "An expression of allowed_urls takes too long over it; the server's log names that one."
                raise self._refused(told, reason) from error
        return False

    def _refused(self, url: str, reason: str = "") -> ArchiveNotFound:
        """Begins with TorchServe's words, which scripts look for."""
        hint = reason or (
            "The key allowed_urls says what may be fetched."
            if self._patterns
            else "The key allowed_urls is not set: archives come from the model store only."
        )
        return ArchiveNotFound(f"Given URL {url} does not match any allowed URL(s). {hint}")


class AddressGuard:
    """Makes the sockets of one connection, and none to an address that is not public unless ``allowed_url_networks``
    has it.

    Names are looked up once; what is checked here is the very address that the socket is then connected to, so that
    an answer that changes meanwhile changes nothing.
    """

    def __init__(self, config: DownloadConfig) -> None:
        self._networks = config.allowed_url_networks
        self.refused: IPAddress | None = None  # the last one

    def make_socket(self, info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, place = info
        address = ipaddress.ip_address(str(place[0]))
        if not self.allows(address):
            self.refused = _plain(address)
            raise ConnectionRefusedError(f"{self.refused} is not in allowed_url_networks")
        return socket.socket(family, kind, protocol)

    def allows(self, address: IPAddress) -> bool:
        address = _plain(address)
        if any(address in network for network in self._networks):
            return True
        embedded = _embedded(address)
        if embedded is not None:
            return self.allows(embedded)
        special = address.is_multicast or address.is_reserved or address.is_unspecified
        return address.is_global and not special and not any(address in one for one in _NOT_AS_PUBLIC_AS_THEY_LOOK)


def shown(url: URL) -> str:
    """As it may stand in a log: signed URLs have secrets in their query."""
    without = url.with_user(None) if url.host else url
    return f"{without.with_query(None)}?..." if url.query_string else str(without)


def _plain(address: IPAddress) -> IPAddress:
    """``::ffff:127.0.0.1`` is 127.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address


def _embedded(address: IPAddress) -> IPAddress | None:
    """The address of IPv4 to which a gateway (NAT64, 6to4) forwards what goes to one of IPv6."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.sixtofour
