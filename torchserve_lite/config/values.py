"""Reads the text of one property. A text that cannot be used raises ``Unacceptable``, which says what can be."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torchserve_lite.config.settings import Address
from torchserve_lite.core.requests import Envelope

if TYPE_CHECKING:
    import regex

Parser = Callable[[str], Any]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
_LONGEST_SOCKET_PATH = 107  # bytes; sockaddr_un has room for 108 with the closing NUL


HIDDEN = "***"
_NAME_MODELS = ("load_models", "models", "model_snapshot")
_USER_OF_URL = re.compile(r"(://)[^/\s@,\"]*@")
_QUERY_OF_URL = re.compile(r"(://[^\s,\"?]*\?)[^\s,\"]*")


class Unacceptable(ValueError):
    """The message tells what would be accepted; whoever read the value adds key, value and place."""


def without_credentials(key: str, text: str) -> str:
    """Models may be named by URLs, which can hold passwords and signatures. A question mark elsewhere begins no query:
    allowed_urls are regular expressions."""
    text = _USER_OF_URL.sub(rf"\1{HIDDEN}@", text)
    return _QUERY_OF_URL.sub(rf"\1{HIDDEN}", text) if key in _NAME_MODELS else text


def text(value: str) -> str:
    return value


def path(value: str) -> Path:
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise Unacceptable("expected a path, not half of a surrogate pair") from error
    if "\0" in value:
        raise Unacceptable("expected a path, which has no zero bytes")
    return Path(value)


def boolean(value: str) -> bool:
    """As in Java: ``true`` in any case is true, anything else is false (``notices`` speaks up about odd words)."""
    return value.lower() == "true"


def inverted(value: str) -> bool:
    """For the keys that TorchServe named by what they switch off."""
    return not boolean(value)


def integer(minimum: int = 0) -> Parser:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII) or int(value) < minimum:
            raise Unacceptable(f"expected a whole number, at least {minimum}")
        return int(value)

    return parse


def number(*, above: float | None = None, minimum: float = 0.0) -> Parser:
    wanted = f"more than {above:g}" if above is not None else f"at least {minimum:g}"

    def parse(value: str) -> float:
        if not re.fullmatch(r"[+-]?(\d{1,18}(\.\d*)?|\.\d+)", value, re.ASCII):
            raise Unacceptable(f"expected a number, {wanted}")
        result = float(value)
        if result < minimum or (above is not None and result <= above):
            raise Unacceptable(f"expected a number, {wanted}")
        return result

    return parse


seconds = number(above=0)


def milliseconds(value: str) -> float:
    """In seconds, as all times within."""
    return int(integer(1)(value)) / 1000


def minutes(value: str) -> float:
    """In seconds, as all times within."""
    return float(seconds(value)) * 60


def choice(*accepted: str) -> Parser:
    def parse(value: str) -> str:
        word = "".join(value.split()).lower()
        if word not in accepted:
            raise Unacceptable(f"expected one of {', '.join(accepted)}")
        return word

    return parse


def status(*accepted: int) -> Parser:
    """A status of HTTP, of those that may be chosen."""
    chosen = choice(*map(str, accepted))
    return lambda value: int(chosen(value))


envelope = choice(*(form.value for form in Envelope if form is not Envelope.NONE))


def regular_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise Unacceptable(f"expected a regular expression ({error})") from error
    return value


def url_patterns(value: str) -> tuple[regex.Pattern[str], ...]:
    """A comma list of regular expressions, as TorchServe reads it: a comma is never a part of one.

    They are those of the package regex, which knows what Java's know, and can be told to give up: an expression like
    ``(.*/)*x`` may take years over one URL, and nothing else would run meanwhile.
    """
    import regex  # which hardly any server needs

    patterns = []
    for expression in filter(None, map(str.strip, value.split(","))):
        if expression.count("{") != expression.count("}"):
            raise Unacceptable(f"a comma ends an expression, so write {expression!r} without one")
        try:
            patterns.append(regex.compile(expression, regex.IGNORECASE))
        except regex.error as error:
            raise Unacceptable(f"expected regular expressions, and {expression!r} is none ({error})") from error
    return tuple(patterns)


def networks(value: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(network) for network in filter(None, map(str.strip, value.split(","))))
    except ValueError as error:
        raise Unacceptable(
            f"expected networks or addresses such as 10.0.0.0/8, 127.0.0.1 or fd00::/8; {error}"
        ) from error


def host_names(value: str) -> tuple[str, ...]:
    """In small letters, as they are compared."""
    names = tuple(name.strip().lower() for name in value.split(","))
    if not all(_HOST_NAME.fullmatch(name) for name in names):
        raise Unacceptable(
            "expected names of hosts without scheme and port, separated by commas; "
            "*.example.com stands for all that end so, * for any"
        )
    return names


def header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise Unacceptable("expected the name of a header: letters, digits, - and _")
    return value


def header_value(value: str) -> str:
    """Goes into every response as it is, so it must not be able to add a header of its own."""
    if any(ord(character) < 32 for character in value):
        raise Unacceptable("expected the text of one header line, without control characters")
    return value


def file_mode(value: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise Unacceptable("expected the permissions of a file as three octal digits, such as 600 or 660")
    return int(value, 8)


def host(value: str) -> str:
    """Without a port, as TorchServe has it for gRPC. IPv6 with or without its brackets."""
    name = value.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if name.startswith("*") or not _HOST_NAME.fullmatch(name.lower()):
            raise Unacceptable("expected the name or the IP address of a host, without a port") from None
    return name


def port(value: str) -> int:
    number = int(integer()(value))
    if number > 65535:
        raise Unacceptable("expected a port, from 0 to 65535")
    return number


def address(default_port: int, default_tls_port: int) -> Parser:
    def parse(value: str) -> Address:
        if value.startswith("unix:"):
            return Address(host="", path=_socket_path(value.removeprefix("unix:")))
        return _http_address(value, default_port, default_tls_port)

    return parse


def _socket_path(value: str) -> str:
    if not value.startswith("/") or value.endswith("/"):
        raise Unacceptable("expected unix:/absolute/path")
    if len(os.fsencode(path(value))) > _LONGEST_SOCKET_PATH:
        raise Unacceptable(f"expected a socket path of at most {_LONGEST_SOCKET_PATH} bytes")
    return value


def _http_address(value: str, default_port: int, default_tls_port: int) -> Address:
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        raise Unacceptable(_ADDRESS_FORMS) from error
    has_more = url.path not in ("", "/") or bool(url.query or url.fragment) or url.username is not None
    if url.scheme not in ("http", "https") or not url.hostname or has_more:
        raise Unacceptable(_ADDRESS_FORMS)
    tls = url.scheme == "https"
    if port is None:
        port = default_tls_port if tls else default_port
    return Address(host=url.hostname, port=port, tls=tls)


_ADDRESS_FORMS = "expected http://host, https://host, http://host:port (port 0 to 65535) or unix:/path"
