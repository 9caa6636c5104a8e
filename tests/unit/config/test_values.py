"""One property's text -> its value, or what would have been accepted."""

from __future__ import annotations

from typing import Any

import pytest

from torchserve_lite.config.settings import Address
from torchserve_lite.config.values import (
    Parser,
    Unacceptable,
    address,
    boolean,
    choice,
    envelope,
    file_mode,
    header_value,
    host,
    host_names,
    integer,
    inverted,
    milliseconds,
    minutes,
    networks,
    number,
    port,
    regular_expression,
    seconds,
    status,
    url_patterns,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("http://127.0.0.1:9000", Address("127.0.0.1", 9000), id="host and port"),
        pytest.param("http://0.0.0.0", Address("0.0.0.0", 80), id="default port"),
        pytest.param("HTTP://localhost:1/", Address("localhost", 1), id="closing slash"),
        pytest.param("http://[::1]:8080", Address("::1", 8080), id="IPv6"),
        pytest.param("http://127.0.0.1:0", Address("127.0.0.1", 0), id="any free port"),
        pytest.param("https://h", Address(host="h", port=443, tls=True), id="TLS"),
        pytest.param("https://h:8443/", Address(host="h", port=8443, tls=True), id="TLS and port"),
        pytest.param("unix:/tmp/a.sock", Address(host="", path="/tmp/a.sock"), id="unix socket"),
    ],
)
def test_address_is_read(text: str, expected: Address) -> None:
    assert address(80, 443)(text) == expected


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        pytest.param("127.0.0.1:80", "expected http://host", id="no scheme"),
        pytest.param("http://:80", "expected http://host", id="no host"),
        pytest.param("http://h:99999", "port 0 to 65535", id="port out of range"),
        pytest.param("http://h:x", "port 0 to 65535", id="port no number"),
        pytest.param("http://h/path", "expected http://host", id="path"),
        pytest.param("http://user@h", "expected http://host", id="user"),
        pytest.param("ftp://h", "expected http://host", id="another scheme"),
        pytest.param("unix:/folder/", "unix:/absolute/path", id="folder"),
        pytest.param("unix:/a\0b", "no zero bytes", id="socket path with a zero byte"),
        pytest.param("unix:a.sock", "unix:/absolute/path", id="relative socket"),
        pytest.param("unix:/" + "x" * 107, "at most 107 bytes", id="long socket path"),
    ],
)
def test_bad_address_says_what_is_accepted(text: str, accepted: str) -> None:
    with pytest.raises(Unacceptable, match=accepted):
        address(80, 443)(text)


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        pytest.param(integer(), "0", 0, id="integer"),
        pytest.param(integer(1), "+7", 7, id="signed integer"),
        pytest.param(seconds, "0.5", 0.5, id="seconds"),
        pytest.param(number(), "0", 0.0, id="number"),
        pytest.param(boolean, "TRUE", True, id="true"),
        pytest.param(boolean, "yes", False, id="not true"),
        pytest.param(inverted, "true", False, id="inverted"),
        pytest.param(minutes, "0.5", 30.0, id="minutes"),
        pytest.param(status(401, 400), "400", 400, id="status"),
        pytest.param(host_names, "My-svc, *.a.b,*", ("my-svc", "*.a.b", "*"), id="hosts"),
        pytest.param(choice("log", "prometheus"), " Prome theus", "prometheus", id="choice"),
        pytest.param(envelope, "KServe", "kserve", id="envelope"),
        pytest.param(regular_expression, "AWS_.*", "AWS_.*", id="regular expression"),
        pytest.param(header_value, "GET, POST", "GET, POST", id="header value"),
        pytest.param(file_mode, "660", 0o660, id="file mode"),
        pytest.param(milliseconds, "1500", 1.5, id="milliseconds"),
        pytest.param(host, "0.0.0.0", "0.0.0.0", id="host"),
        pytest.param(host, "[::1]", "::1", id="host in brackets"),
        pytest.param(host, "my-pod.Models", "my-pod.Models", id="name of a host"),
        pytest.param(port, "0", 0, id="port"),
    ],
)
def test_value_is_read(parse: Parser, text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("parse", "text", "accepted"),
    [
        pytest.param(integer(1), "0", "a whole number, at least 1", id="too small"),
        pytest.param(url_patterns, "http://ok/.*, http://(", "and .* is none", id="no expression"),
        pytest.param(url_patterns, "http://a{1,3}/.*", "a comma ends an expression", id="comma in an expression"),
        pytest.param(networks, "10.0.0.0/8, minio", "networks or addresses such as 10.0.0.0/8", id="a host's name"),
        pytest.param(networks, "10.0.0.1/8", "10.0.0.1/8 has host bits set", id="bits beyond the network"),
        pytest.param(integer(), "1.5", "a whole number", id="fraction"),
        pytest.param(integer(), "1_000", "a whole number", id="Python's underscore"),
        pytest.param(integer(), "9" * 5000, "a whole number", id="absurdly long"),
        pytest.param(file_mode, "888", "three octal digits", id="no file mode"),
        pytest.param(seconds, "0", "more than 0", id="no time at all"),
        pytest.param(seconds, "nan", "a number", id="not a number"),
        pytest.param(number(), "-1", "at least 0", id="negative"),
        pytest.param(minutes, "0", "more than 0", id="no minutes"),
        pytest.param(status(401, 400), "403", "one of 401, 400", id="no status"),
        pytest.param(host_names, "a, http://b", "without scheme and port", id="host with a scheme"),
        pytest.param(host_names, "a:80", "without scheme and port", id="host with a port"),
        pytest.param(host_names, "a,,b", "separated by commas", id="no host"),
        pytest.param(host, "http://h", "without a port", id="host with a scheme before it"),
        pytest.param(host, "h:7070", "without a port", id="host with its port"),
        pytest.param(host, "*", "without a port", id="any host"),
        pytest.param(port, "65536", "from 0 to 65535", id="no port"),
        pytest.param(milliseconds, "0", "at least 1", id="no milliseconds"),
        pytest.param(choice("log", "legacy"), "xml", "one of log, legacy", id="no choice"),
        pytest.param(envelope, "kserve3", "body, json, kserve, kservev2", id="no envelope"),
        pytest.param(regular_expression, "(", "a regular expression", id="no expression"),
        pytest.param(header_value, "a\r\nSet-Cookie: b", "without control characters", id="header injection"),
    ],
)
def test_bad_value_says_what_is_accepted(parse: Parser, text: str, accepted: str) -> None:
    with pytest.raises(Unacceptable, match=accepted):
        parse(text)
