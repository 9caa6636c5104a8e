"""Conversations with a server: good, odd and hostile ones, in one piece, in many, and one request behind the other.

Models: ``echo`` answers with what its handler saw, ``acts`` does what the body says (``models.py``).
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

LIMIT = 2 * 1024 * 1024  # max_request_size of the servers
MIB = 1024 * 1024
HOST = b"Host: x\r\n"
TOKEN = b"the-token-for-this-server"
ECHO = b"/predictions/echo"
ACTS = b"/predictions/acts"
EVENTS = b"Accept: text/event-stream"


@dataclass(frozen=True)
class Step:
    """Bytes that are sent, each segment once the server has read those before, and how many heads of answers (those of
    100 Continue too) are read before the next step. ``without_bodies``: the answers are to HEAD."""

    segments: tuple[bytes, ...]
    answers: int = 1
    without_bodies: bool = False


@dataclass(frozen=True)
class Case:
    """``leaves``: the client ends its half of the connection after the last answer. Otherwise it sends a plain request
    that asks for the end (``LAST``), as its answer tells whether the connection had been kept."""

    name: str
    steps: tuple[Step, ...]
    leaves: bool = False


def request(
    method: bytes,
    target: bytes,
    *lines: bytes,
    body: bytes = b"",
    host: bytes = HOST,
    version: bytes = b"1.1",
) -> bytes:
    """Exactly these header lines after Host: no length is added."""
    head = b"".join(line + b"\r\n" for line in lines)
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + host + head + b"\r\n" + body


def post(target: bytes, body: bytes = b"7", *lines: bytes, method: bytes = b"POST") -> bytes:
    return request(method, target, *lines, b"Content-Length: %d" % len(body), body=body)


def get(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return request(method, target, *lines)


def one(name: str, sent: bytes, *, answers: int = 1, head: bool = False) -> Case:
    return Case(name, (Step((sent,), answers, head),))


def in_turn(name: str, *sent: bytes) -> Case:
    """Each request when the one before has been answered."""
    return Case(name, tuple(Step((piece,)) for piece in sent))


PLAIN_REQUEST = post(ECHO + b"/1.0/apart", b"apart")
LAST = post(ECHO, b"last", b"Connection: close")
PLAIN = post(ECHO, b"plain")
PING = get(b"/ping")
V1 = json.dumps({"instances": [{"data": "1"}, {"data": "2"}]}).encode()
V2 = json.dumps({"id": "me", "inputs": [{"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}).encode()
CHUNKS = b"3\r\nabc\r\n2;name=value\r\nde\r\n0\r\n\r\n"
FORM = b"--cut\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--cut\r\n" + (
    b'Content-Disposition: form-data; name=b; filename="f.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--cut--\r\n'
)
MULTIPART = b"Content-Type: multipart/form-data; boundary=cut"
URLENCODED = b"Content-Type: application/x-www-form-urlencoded"
JSON = b"Content-Type: application/json"


# --- good -------------------------------------------------------------------------------------------------------------

INFERENCE_ROUTES = {
    b"/predictions/echo": b"7",
    b"/predictions/echo/1.0": b"7",
    b"/predictions/echo/1.0/a/b/c": b"7",
    b"/predictions/echo/1.0/": b"7",
    b"/predictions/echo/": b"7",
    b"/predictions/echo/9.9": b"7",
    b"/predictions/": b"7",
    b"/predictions": b"7",
    b"/predictions/unknown": b"7",
    b"/predictions/echo/1.0/v1/models/echo:predict": b"7",
    b"/explanations/echo": b"7",
    b"/explanations/echo/1.0": b"7",
    b"/explanations/unknown": b"7",
    b"/v1/models/echo:predict": V1,
    b"/v1/models/echo:predict/": V1,
    b"/v1/models/echo:explain": V1,
    b"/v1/models/echo:other": V1,
    b"/v1/models/unknown:predict": V1,
    b"/v1/models/echo": V1,
    b"/v1/models/a/b:predict": V1,
    b"/v1/other": V1,
    b"/v2/models/echo/infer": V2,
    b"/v2/models/echo/versions/1.0/infer": V2,
    b"/v2/models/echo/versions/9.9/infer": V2,
    b"/v2/models/echo/explain": V2,
    b"/v2/models/echo/versions/1.0/explain": V2,
    b"/v2/models/unknown/infer": V2,
    b"/v2/models/echo/infer/": V2,
    b"/v2/models/echo/other": V2,
    b"/invocations": b"7",
    b"/models/echo/invoke": b"7",
    b"/echo/predict": b"7",
    b"/echo/1.0/predict": b"7",
    b"/nowhere": b"7",
    b"/": b"7",
}
READ_ROUTES = (
    b"/ping",
    b"/",
    b"/v1/models",
    b"/v1/models/echo",
    b"/v1/models/unknown",
    b"/v2",
    b"/v2/",
    b"/v2/health/live",
    b"/v2/health/ready",
    b"/v2/models",
    b"/v2/models/echo",
    b"/v2/models/echo/ready",
    b"/v2/models/echo/versions/1.0",
    b"/v2/models/unknown/ready",
    b"/models",
    b"/models?limit=1",
    b"/models/unknown",
    b"/models/unknown/1.0",
    b"/metrics?name[]=nothing",
    b"/api-description",
    b"/nowhere",
)


def good() -> Iterator[Case]:
    for target, body in INFERENCE_ROUTES.items():
        name = target.decode()
        yield one(f"POST {name}", post(target, body))
        yield one(f"PUT {name}", post(target, body, method=b"PUT"))
        yield one(f"GET without a body {name}", get(target))
        yield one(f"GET with a body {name}", post(target, body, method=b"GET"))
    for target in READ_ROUTES:
        name = target.decode()
        yield one(f"GET {name}", get(target))
        yield one(f"HEAD {name}", get(target, method=b"HEAD"), head=True)
        yield one(f"POST to read {name}", post(target))
    for target in (*itertools.islice(INFERENCE_ROUTES, 3), b"/v1/models/echo:predict", b"/v2/models/echo/infer", b"*"):
        yield one(f"OPTIONS {target.decode()}", get(target, method=b"OPTIONS"))
        yield one(f"HEAD {target.decode()}", get(target, method=b"HEAD"), head=True)
    for method in (
        b"DELETE",
        b"PATCH",
        b"TRACE",
        b"PROPFIND",
        b"post",
        b"Post",
        b"FOO",
        b"P",
        b"POSTPOST",
        b"M-SEARCH",
    ):
        yield one(f"{method.decode()} on predictions", post(ECHO, method=method))
    yield one("scaling", get(b"/models/echo?min_worker=1&max_worker=1", method=b"PUT"))
    yield one("scaling an unknown model", get(b"/models/unknown?min_worker=1", method=b"PUT"))
    yield one("scaling by nonsense", get(b"/models/echo?min_worker=x", method=b"PUT"))
    yield one("registering", get(b"/models?url=x.mar", method=b"POST"))
    yield one("removing", get(b"/models/unknown", method=b"DELETE"))


# --- odd --------------------------------------------------------------------------------------------------------------

TARGETS = (
    b"/predictions/%65cho",
    b"/predictions/echo%2f1.0",
    b"/predictions/echo/1.0/%41%20b",
    b"/predictions/%",
    b"/predictions/%zz",
    b"/predictions/%00",
    b"/predictions/%ff",
    b"/predictions/\xff",
    b"/predictions/\xc3\xa4",
    b"/predictions/echo?",
    b"/predictions/echo?a=1&b=2",
    b"/predictions/echo?a=%zz",
    b"/predictions/echo#part",
    b"/predictions/echo?#",
    b"/predictions//echo",
    b"//predictions/echo",
    b"/predictions/echo//1.0",
    b"/predictions/./echo",
    b"/predictions/../predictions/echo",
    b"/predictions/echo/../echo",
    b"/PREDICTIONS/echo",
    b"/predictions/ECHO",
    b"/predictions/echo;a=1",
    b'/predictions/echo"',
    b"/predictions/echo\\",
    b"/predictions/{echo}",
    b"/predictions/echo\t",
    b"/predictions/echo b",
    b"/predictions/echo|",
    b"/predictions/e:cho",
    b"/v1/models/echo%3Apredict",
    b"/v1/models/echo:predict?a=1",
    b"/v1/models/:predict",
    b"/v1/models/echo:PREDICT",
    b"/v1/models/echo:predict:predict",
    b"/v2/models//infer",
    b"/v2/models/e%20cho/infer",
    b"/v2/models/echo/versions//infer",
    b"http://x/predictions/echo",
    b"http://other:80/predictions/echo?a=1",
    b"https://x/predictions/echo",
    b"HTTP://x/predictions/echo",
    b"http:///predictions/echo",
    b"ftp://x/predictions/echo",
    b"predictions/echo",
    b"*",
    b"?a=1",
    b"#",
    b"x:80",
    b"",
    b"/predictions/" + b"x" * 3000,
)

HEADERS = {
    "names in capitals": (b"X-ONE: 1", b"x-two: 2", b"x-ThReE: 3"),
    "no space": (b"X-One:1",),
    "spaces around": (b"X-One: \t 1 \t ",),
    "two spaces before": (b"X-One:  1",),
    "a space behind": (b"X-One: 1 ",),
    "a space inside": (b"X-One: 1  2",),
    "colons inside": (b"X-One: a: b:c",),
    "only spaces": (b"X-One:   ",),
    "empty": (b"X-One:",),
    "repeated": (b"X-One: 1", b"X-One: 2", b"x-one: 3"),
    "folded": (b"X-One: 1\r\n 2",),
    "folded by a tabulator": (b"X-One: 1\r\n\t2",),
    "folded at once": (b"X-One:\r\n 2",),
    "fold as first line": (b" X-One: 1",),
    "obs-text": (b"X-One: \xe4\xff\x80",),
    "UTF-8": ("X-One: ä€".encode(),),
    "tabulator inside": (b"X-One: 1\t2",),
    "delete inside": (b"X-One: 1\x7f2",),
    "control inside": (b"X-One: 1\x012",),
    "zero inside": (b"X-One: 1\x002",),
    "escape inside": (b"X-One: 1\x1b2",),
    "carriage return inside": (b"X-One: 1\r2",),
    "line feed inside": (b"X-One: 1\n2",),
    "header by line feed": (b"X-One: 1\nX-Two: 2",),
    "space before the colon": (b"X-One : 1",),
    "tabulator before the colon": (b"X-One\t: 1",),
    "no colon": (b"X-One",),
    "no name": (b": 1",),
    "odd name": (b"X!#$%&'*+-.^_`|~: 1",),
    "bad name": (b"X(One): 1",),
    "bad name with a comma": (b"X,One: 1",),
    "quote in the name": (b'X"One: 1',),
    "obs-text in the name": (b"X\xe4: 1",),
    "zero in the name": (b"X\x00: 1",),
    "cookie": (b"Cookie: a=1; b=2",),
    "authorization": (b"Authorization: Bearer abc",),
    "own request id": (b"x-request-id: mine",),
    "url_path": (b"url_path: mine",),
    "explain": (b"explain: True",),
    "accept": (b"Accept: text/css", b"Accept-Encoding: gzip, br"),
    "origin": (b"Origin: http://other", b"Access-Control-Request-Method: POST"),
    "range": (b"Range: bytes=0-1", b"If-Match: x", b"If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"),
    "forwarded": (b"Forwarded: for=1.2.3.4", b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https"),
    "trace": (b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=1"),
    "bad trace": (b"traceparent: nonsense",),
    "two traces": (b"traceparent: 1", b"traceparent: 2"),
    "time-out": (b"X-Request-Timeout-Ms: 60000",),
    "time-out as a float": (b"X-Request-Timeout-Ms: 60000.5",),
    "time-out with an exponent": (b"X-Request-Timeout-Ms: 6e4",),
    "time-out with spaces": (b"X-Request-Timeout-Ms:  60000\t",),
    "time-out in lower case": (b"x-request-timeout-ms: 60000",),
    "time-out of 0": (b"X-Request-Timeout-Ms: 0",),
    "time-out below 0": (b"X-Request-Timeout-Ms: -1",),
    "time-out that is no number": (b"X-Request-Timeout-Ms: soon",),
    "time-out with an underscore": (b"X-Request-Timeout-Ms: 60_000",),
    "time-out in other digits": ("X-Request-Timeout-Ms: ٦".encode(),),
    "time-out without end": (b"X-Request-Timeout-Ms: inf",),
    "time-out nan": (b"X-Request-Timeout-Ms: nan",),
    "time-out empty": (b"X-Request-Timeout-Ms:",),
    "two time-outs": (b"X-Request-Timeout-Ms: 60000", b"X-Request-Timeout-Ms: 60000"),
    "binary tensors": (b"Inference-Header-Content-Length: 1",),
    "gzip": (b"Content-Encoding: gzip",),
    "identity": (b"Content-Encoding: identity",),
    "br": (b"Content-Encoding: br",),
    "close": (b"Connection: close",),
    "CLOSE": (b"Connection: CLOSE",),
    "keep-alive": (b"Connection: keep-alive",),
    "close and more": (b"Connection: close, x-one",),
    "keep-alive and close": (b"Connection: keep-alive, close",),
    "close twice": (b"Connection: keep-alive", b"Connection: close"),
    "connection of a header": (b"Connection: x-one", b"X-One: 1"),
    "empty connection": (b"Connection:",),
    "keep-alive header": (b"Keep-Alive: timeout=5",),
    "proxy-connection": (b"Proxy-Connection: close",),
    "te": (b"TE: trailers", b"Connection: TE"),
    "upgrade to h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"),
    "upgrade without connection": (b"Upgrade: h2c",),
    "connection upgrade alone": (b"Connection: upgrade",),
    "expect in capitals": (b"Expect: 100-CONTINUE",),
    "expect": (b"Expect: 100-continue",),
    "expect something else": (b"Expect: a-miracle",),
    "expect twice": (b"Expect: 100-continue", b"Expect: 100-continue"),
    "expect nothing": (b"Expect:",),
    "host twice": (b"Host: y",),
    "host in lower case": (b"host: x",),
    "many": tuple(b"X-%d: %d" % (number, number) for number in range(60)),
    "long value": (b"X-One: " + b"x" * 4000,),
    "long name": (b"X" * 300 + b": 1",),
    "priority": (b"Priority: u=1", b"Sec-Fetch-Mode: cors", b"DNT: 1"),
    "websocket key": (b"Sec-WebSocket-Key: AAAA", b"Sec-WebSocket-Version: 13"),
    "trailer announced": (b"Trailer: X-One",),
    "content-length in a connection": (b"Connection: content-length",),
    "max-forwards": (b"Max-Forwards: 0", b"Via: 1.1 proxy"),
    "content-md5": (b"Content-MD5: x", b"Content-Language: en", b"Content-Location: /x", b"Content-Range: bytes 0-0/1"),
}
HOSTS = {
    "no host": b"",
    "empty host": b"Host:\r\n",
    "host with a port": b"Host: x:80\r\n",
    "IPv6 host": b"Host: [::1]:80\r\n",
    "host with a path": b"Host: x/y\r\n",
    "host with a user": b"Host: a@b\r\n",
    "host with a space": b"Host: a b\r\n",
    "host of obs-text": b"Host: \xe4\r\n",
    "host of UTF-8": "Host: ä\r\n".encode(),
    "host with a comma": b"Host: a,b\r\n",
    "host in capitals": b"HOST: X\r\n",
    "host without a space": b"Host:x\r\n",
    "host with spaces around": b"Host:  x  \r\n",
    "two equal hosts": b"Host: x\r\nHost: x\r\n",
    "host with a percent": b"Host: %41\r\n",
    "host with an underscore": b"Host: a_b\r\n",
    "host with a quote": b'Host: "x"\r\n',
}
LENGTHS = (
    b"5",
    b"05",
    b"+5",
    b"-5",
    b"5 ",
    b" 5",
    b"5, 5",
    b"5,5",
    b"5;",
    b"0x5",
    b"5.0",
    b"5e0",
    b"5_0",
    b"",
    b"five",
    b"0",
    b"00",
    b"-0",
    b"0000000000000000000000000000000000000000000000000000000000000005",
    b"9999999",
    b"4294967301",
    b"9223372036854775807",
    b"18446744073709551621",
    b"99999999999999999999999999",
    b"\xd9\xa5",
    b"\t5",
    b"5\x0b",
)
TYPES = (
    b"application/json",
    b"APPLICATION/JSON",
    b"application/json; charset=utf-8",
    b"application/vnd.x+json",
    b"text/plain",
    b"text/plain; charset=latin-1",
    b"application/octet-stream",
    b"image/png",
    b"",
    b"nonsense",
    b"a/b; c",
    b"application/json, text/plain",
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=other",
    b"multipart/form-data; boundary=cut",
    b'MULTIPART/FORM-DATA; boundary="cut"',
    b"multipart/mixed; boundary=cut",
    b"application/x-www-form-urlencoded",
    b"application/x-www-form-urlencoded; charset=utf-8",
    b"Application/X-WWW-Form-URLEncoded",
    b"text/\xe4",
)
SIZES = (0, 1, 2, 1000, 64 * 1024, 64 * 1024 + 1, MIB - 1, MIB, MIB + 1, LIMIT, LIMIT + 1)


def odd() -> Iterator[Case]:
    for target in TARGETS:
        yield one(f"target {target[:60]!r}", post(target))
    for name, lines in HEADERS.items():
        yield one(f"headers {name}", post(ECHO, b"7", *lines))
        yield one(f"headers after the length {name}", request(b"POST", ECHO, b"Content-Length: 1", *lines, body=b"7"))
    for name, lines in itertools.islice(HEADERS.items(), 30, None):
        yield one(f"headers on V1 {name}", post(b"/v1/models/echo:predict", V1, *lines))
        yield one(f"headers on V2 {name}", post(b"/v2/models/echo/infer", V2, *lines))
    for name, host in HOSTS.items():
        yield one(name, request(b"POST", ECHO, b"Content-Length: 1", host=host, body=b"7"))
    for length in LENGTHS:
        yield one(f"length {length!r}", request(b"POST", ECHO, b"Content-Length:" + length, body=b"12345"))
    yield one("no length", request(b"POST", ECHO))
    yield one("no length but a body", request(b"POST", ECHO, body=b"12345"))
    yield one("length twice", request(b"POST", ECHO, b"Content-Length: 5", b"Content-Length: 5", body=b"12345"))
    yield one("two lengths", request(b"POST", ECHO, b"Content-Length: 5", b"Content-Length: 6", body=b"12345"))
    yield one("length in lower case", request(b"POST", ECHO, b"content-length: 5", body=b"12345"))
    yield one("length folded", request(b"POST", ECHO, b"Content-Length:\r\n 5", body=b"12345"))
    yield one("length without a space", request(b"POST", ECHO, b"Content-Length:5", body=b"12345"))
    yield one("length with a space before the colon", request(b"POST", ECHO, b"Content-Length : 5", body=b"12345"))
    yield one("length with an underscore", request(b"POST", ECHO, b"Content_Length: 5", body=b"12345"))
    for kind in TYPES:
        for name, body in (("form", FORM), ("fields", b"a=1&b=%20&a=2"), ("json", b'{"a": [1, 2]}'), ("text", b"7")):
            yield one(f"type {kind!r} of {name}", post(ECHO, body, b"Content-Type: " + kind))
    yield one("type twice", post(ECHO, b"{}", JSON, b"Content-Type: text/plain"))
    yield one("V1 with another type", post(b"/v1/models/echo:predict", V1, b"Content-Type: text/plain"))
    yield one("V1 that is no JSON", post(b"/v1/models/echo:predict", b"{", JSON))
    yield one("V2 that is no JSON", post(b"/v2/models/echo/infer", b"", JSON))
    yield one("V2 binary", post(b"/v2/models/echo/infer", V2, b"Inference-Header-Content-Length: %d" % len(V2)))
    yield one("gzip that is gzip", post(ECHO, gzip.compress(b"7", mtime=0), b"Content-Encoding: gzip"))
    for size in SIZES:
        body = (bytes(range(256)) * (size // 256 + 1))[:size]
        yield one(f"body of {size}", post(ECHO, body))
        yield one(f"body of {size} on V1", post(b"/v1/models/echo:predict", body))
        yield in_turn(f"body of {size} in two pieces, then plain", post(ECHO, body), PLAIN)
    yield from versions()
    yield from chunked()
    yield from continued()


def versions() -> Iterator[Case]:
    for version in (b"1.0", b"0.9", b"1.2", b"2.0", b"1.10", b"1", b"x.y", b"1.1 ", b"01.1"):
        sent = request(b"POST", ECHO, b"Content-Length: 1", body=b"7", version=version)
        yield one(f"HTTP/{version.decode()}", sent)
    for lines in ((b"Connection: keep-alive",), (b"Connection: close",), (b"Transfer-Encoding: chunked",)):
        sent = request(b"POST", ECHO, b"Content-Length: 1", *lines, body=b"7", version=b"1.0")
        yield one(f"HTTP/1.0 {lines[0].decode()}", sent)
    for name in ("stream 3", "large 70000", "status 204"):
        sent = request(b"POST", ACTS, b"Content-Length: %d" % len(name), body=name.encode(), version=b"1.0")
        yield one(f"HTTP/1.0 {name}", sent)
    yield one(
        "HTTP/1.0 without a host", request(b"POST", ECHO, b"Content-Length: 1", body=b"7", version=b"1.0", host=b"")
    )
    for line in (b"POST /predictions/echo", b"POST  /predictions/echo HTTP/1.1", b"POST /predictions/echo  HTTP/1.1"):
        yield one(f"request line {line!r}", line + b"\r\nHost: x\r\nContent-Length: 1\r\n\r\n7")
    for line in (
        b" POST /predictions/echo HTTP/1.1",
        b"POST\t/predictions/echo\tHTTP/1.1",
        b"POST /predictions/echo http/1.1",
    ):
        yield one(f"request line {line!r}", line + b"\r\nHost: x\r\nContent-Length: 1\r\n\r\n7")
    for before in (b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\r\n\r\n\r\n\r\n"):
        yield one(f"{before!r} before a request", before + PLAIN)
        yield in_turn(f"{before!r} between requests", PLAIN, before + PLAIN)


def chunked() -> Iterator[Case]:
    coding = b"Transfer-Encoding: chunked"
    bodies = {
        "plain": b"5\r\nabcde\r\n0\r\n\r\n",
        "several with extensions": CHUNKS,
        "trailers": b"1\r\na\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n",
        "empty": b"0\r\n\r\n",
        "in capitals": b"A\r\n0123456789\r\n0\r\n\r\n",
        "leading zeros": b"0005\r\nabcde\r\n0000\r\n\r\n",
        "no number": b"x\r\nabcde\r\n0\r\n\r\n",
        "negative": b"-5\r\nabcde\r\n0\r\n\r\n",
        "with a sign": b"+5\r\nabcde\r\n0\r\n\r\n",
        "with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
        "huge": b"ffffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
        "line feed alone": b"5\nabcde\n0\n\n",
        "space after the number": b"5 \r\nabcde\r\n0\r\n\r\n",
        "too short": b"3\r\nabcde\r\n0\r\n\r\n",
        "extension with a quote": b'5;a="b;c"\r\nabcde\r\n0\r\n\r\n',
        "extension with a line feed": b"5;a\nb\r\nabcde\r\n0\r\n\r\n",
        "long extension": b"5;" + b"a" * 5000 + b"\r\nabcde\r\n0\r\n\r\n",
        "trailer without a colon": b"0\r\nnonsense\r\n\r\n",
        "trailer that is a length": b"1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n",
        "large": b"".join(b"1000\r\n" + b"x" * 4096 + b"\r\n" for _ in range(300)) + b"0\r\n\r\n",
        "beyond the limit": b"".join(b"10000\r\n" + b"x" * 65536 + b"\r\n" for _ in range(33)) + b"0\r\n\r\n",
    }
    for name, body in bodies.items():
        yield one(f"chunks {name}", request(b"POST", ECHO, coding, body=body))
        yield in_turn(f"chunks {name} after plain", PLAIN, request(b"POST", ECHO, coding, body=body))
    for line in (b"Transfer-Encoding: Chunked", b"transfer-encoding:chunked", b"Transfer-Encoding: chunked "):
        yield one(f"coding {line!r}", request(b"POST", ECHO, line, body=CHUNKS))
    for target, body in ((b"/v1/models/echo:predict", V1), (b"/v2/models/echo/infer", V2), (b"/invocations", b"7")):
        pieces = b"".join(b"%x\r\n%s\r\n" % (1, body[at : at + 1]) for at in range(len(body))) + b"0\r\n\r\n"
        yield one(f"chunks on {target.decode()}", request(b"POST", target, coding, body=pieces))


def continued() -> Iterator[Case]:
    expect = b"Expect: 100-continue"
    head = request(b"POST", ECHO, b"Content-Length: 5", expect)
    yield Case("the body when it is asked for", (Step((head,)), Step((b"12345",))))
    yield Case("the body when it is asked for, after plain", (Step((PLAIN,)), Step((head,)), Step((b"12345",))))
    yield one("the body with the head", head + b"12345")
    unknown = request(b"POST", b"/predictions/unknown", b"Content-Length: 5", expect)
    yield Case("the body of an unknown model is not asked for", (Step((unknown,)),), leaves=True)
    large = request(b"POST", ECHO, b"Content-Length: %d" % (LIMIT + 1), expect)
    yield Case("a body that is too large is not asked for", (Step((large,)),), leaves=True)
    chunks = request(b"POST", ECHO, b"Transfer-Encoding: chunked", expect)
    yield Case("chunks when they are asked for", (Step((chunks,)), Step((CHUNKS,))))


# --- hostile ----------------------------------------------------------------------------------------------------------

CODINGS = (
    b"chunked",
    b"gzip, chunked",
    b"chunked, gzip",
    b"identity",
    b"xchunked",
    b"chunkedx",
    b"\x0bchunked",
    b"",
    b"chunked, chunked",
    b"chunked,",
    b"CHUNKED",
    b'"chunked"',
    b"chunked;q=1",
)
SMUGGLED = get(b"/v2/health/live?smuggled")


def hostile() -> Iterator[Case]:
    chunks = b"0\r\n\r\n"
    for coding in CODINGS:
        both = (b"Content-Length: %d" % len(chunks), b"Transfer-Encoding: " + coding)
        yield one(f"length and coding {coding!r}", request(b"POST", ECHO, *both, body=chunks + SMUGGLED))
        yield one(f"coding {coding!r} and length", request(b"POST", ECHO, *both[::-1], body=chunks + SMUGGLED))
        yield one(f"coding {coding!r}", request(b"POST", ECHO, both[1], body=chunks + SMUGGLED))
    for name, line in {
        "line feed before a coding": b"X: y\nTransfer-Encoding: chunked",
        "carriage return before a coding": b"X: y\rTransfer-Encoding: chunked",
        "space before the colon": b"Transfer-Encoding : chunked",
        "folded coding": b"Transfer-Encoding:\r\n chunked",
        "folded header before a coding": b"X: y\r\n Transfer-Encoding: chunked",
        "zero byte in the name": b"Transfer-Encoding\x00: chunked",
        "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "underscore": b"Transfer_Encoding: chunked",
        "space before the name": b" Transfer-Encoding: chunked",
        "vertical tabulator before the name": b"\x0bTransfer-Encoding: chunked",
        "obs-text in the name": b"Transfer-Encoding\xa0: chunked",
    }.items():
        sent = request(b"POST", ECHO, b"Content-Length: 5", line, body=chunks + SMUGGLED)
        yield one(f"hidden coding, {name}", sent)
    for target in (b"/ping\r\nX: y", b"/ping\rX", b"/ping\nHost: y", b"/ping\x00", b"/ping\x7f", b"/ping\x01"):
        yield one(f"target {target!r}", get(target))
        yield one(f"inference target {target!r}", post(ECHO + target))
    for size in (8000, 8150, 8180, *range(8186, 8196), 8300, 16000, 20_000, 70_000):
        yield one(f"header of {size} bytes", post(ECHO, b"7", b"X: " + b"x" * (size - 3)))
        yield one(f"header value of {size} bytes", post(ECHO, b"7", b"X: " + b"x" * size))
        yield one(f"target of {size} bytes", post(ECHO + b"/1.0/" + b"x" * (size - len(ECHO) - 5)))
    for size in (8189, 8190, 8191):
        yield one(f"header name of {size} bytes", post(ECHO, b"7", b"X" * size + b": 1"))
    for count in (90, 120, *range(124, 131), 200, 1000):
        yield one(f"{count} headers", post(ECHO, b"7", *(b"X-%d: 1" % number for number in range(count))))
    for size in (30_000, 60_000, 65_000, 66_000, 130_000, 300_000):
        lines = (b"X-%d: %s" % (number, b"x" * 7000) for number in range(size // 7000))
        yield one(f"head of {size} bytes", post(ECHO, b"7", *lines))
    for name, sent in GARBAGE.items():
        yield one(f"garbage {name}", sent)
        yield in_turn(f"garbage {name} after a request", PLAIN, sent)
        yield Case(f"garbage {name} behind a request", (Step((PLAIN, sent), 2),))
        yield one(f"garbage {name} behind ping", PING + sent, answers=2)
    shorter = request(b"POST", ECHO, b"Content-Length: 9", body=b"7")
    yield Case("a body that is shorter than told, and a request", (Step((shorter, LAST), 2),))
    yield Case("a body that is longer than told", (Step((post(ECHO, b"7"), b"more\r\n\r\n"), 2),))


GARBAGE = {
    "zeros": bytes(100) + b"\r\n\r\n",
    "a word": b"hello\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "h2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "0xff": b"\xff" * 300 + b"\r\n\r\n",
    "half a method": b"PO\r\n\r\n",
    "method with a zero": b"PO\x00ST / HTTP/1.1\r\nHost: x\r\n\r\n",
    "header first": b"Host: x\r\n\r\n",
    "memcached": b"stats\r\nget x\r\n\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n\r\n",
    "SMTP": b"EHLO x\r\nMAIL FROM:<x>\r\n\r\n",
    "line feeds": b"POST /predictions/echo HTTP/1.1\nHost: x\nContent-Length: 1\n\n7",
    "carriage returns": b"POST /predictions/echo HTTP/1.1\rHost: x\rContent-Length: 1\r\r7\r\n\r\n",
}


# --- what handlers answer ---------------------------------------------------------------------------------------------

ACTIONS = (
    *(f"status {code}" for code in (100, 199, 200, 201, 204, 205, 299, 304, 400, 404, 418, 503, 599, 600, 700, -1)),
    "status 200 Fine",
    "status 404 Not\r\nHere: x",
    "status 500 ärger",
    "status 299 ",
    "header X-Own: 1",
    "header x-own: ä€",
    "header X-Own: a\r\nb: c",
    "header Bad Name: 1",
    "header : 1",
    "header Content-Length: 3",
    "header Transfer-Encoding: chunked",
    "header Connection: close",
    "header Keep-Alive: timeout=1",
    "header Upgrade: h2c",
    "header Server: mine",
    "header Pragma: mine",
    "header Content-Type: text/css",
    "header content-type: text/css",
    "header Set-Cookie: a=1",
    "header Content-Encoding: gzip",
    "header Trailer: X",
    "header X-Empty: ",
    "type text/css",
    "type ",
    "type a\r\nb",
    "type text/plain; charset=utf-16",
    "empty",
    "none",
    "dict",
    "list",
    "number",
    "float",
    "true",
    "nan",
    "nested",
    "text ä€",
    "surrogate",
    "bytes 0",
    "bytes 300",
    "array",
    "large 65535",
    "large 65536",
    "large 65537",
    "large 300000",
    "large 2000000",
    "large 9000000",
    "object",
    "raise",
    "refuse 400 no",
    "refuse 404 ä",
    "refuse 503 later",
    "refuse 700 odd",
    "refuse 0 odd",
    "count 0",
    "count 2",
    "stream 0",
    "stream 1",
    "stream 3",
    "stream 40",
    "stream-empty-pieces",
    "stream-large",
    "stream-status 201",
    "stream-status 204",
    "stream-header X-Own: 1",
    "stream-header Content-Type: text/event-stream",
    "stream-break 0",
    "stream-break 1",
    "stream-break 5",
    "stream-refuse",
    "explain",
)


def answered() -> Iterator[Case]:
    for action in ACTIONS:
        body = action.encode()
        yield one(f"handler does {action!r}", post(ACTS, body))
        yield one(f"handler does {action!r}, and the client closes", post(ACTS, body, b"Connection: close"))
        yield in_turn(f"handler does {action!r} between plain requests", PLAIN, post(ACTS, body), PLAIN)
        if action.startswith("stream"):
            yield in_turn(f"handler does {action!r} as events", post(ACTS, body, EVENTS), PLAIN)
    for action in ("status 404", "header X-Own: 1", "text 7", "number", "raise", "refuse 404 no", "stream 3", "none"):
        instances = json.dumps({"instances": [action]}).encode()
        yield one(f"V1 handler does {action!r}", post(b"/v1/models/acts:predict", instances))
        tensor = {"name": "a", "shape": [1], "datatype": "BYTES", "data": [action]}
        yield one(
            f"V2 handler does {action!r}", post(b"/v2/models/acts/infer", json.dumps({"inputs": [tensor]}).encode())
        )
        yield one(f"explain handler does {action!r}", post(b"/explanations/acts", action.encode()))
    yield one("the deadline passes at once", post(ACTS, b"sleep 0.5", b"X-Request-Timeout-Ms: 0.5"))
    yield one("the deadline passes while the handler runs", post(ACTS, b"sleep 0.6", b"X-Request-Timeout-Ms: 100"))


# --- pipelined and mixed ----------------------------------------------------------------------------------------------

KINDS = {
    "plain": PLAIN,
    "ping": PING,
    "V1": post(b"/v1/models/echo:predict", V1),
    "V2": post(b"/v2/models/echo/infer", V2),
    "query": post(ECHO + b"?a=1", b"query"),
    "chunks": request(b"POST", ECHO, b"Transfer-Encoding: chunked", body=CHUNKS),
    "form": post(ECHO, FORM, MULTIPART),
    "404": post(b"/predictions/unknown"),
    "refused": post(ACTS, b"refuse 404 no"),
    "stream": post(ACTS, b"stream 3"),
    "large answer": post(ACTS, b"large 300000"),
    "large body": post(ECHO, b"x" * (MIB + 1)),
    "slow": post(ACTS, b"sleep 0.02"),
    "close": post(ECHO, b"close", b"Connection: close"),
    "nonsense": b"nonsense\r\n\r\n",
}


def mixed() -> Iterator[Case]:
    for first, second in itertools.product(KINDS, KINDS):
        if second != "nonsense":
            yield one(f"{first} and {second} pipelined", KINDS[first] + KINDS[second], answers=2)
        if first not in ("close", "nonsense"):
            yield in_turn(f"{first}, then {second}", KINDS[first], KINDS[second])
    for count in (3, 4, 5):
        yield one(f"{count} plain pipelined", b"".join(post(ECHO, b"%d" % n) for n in range(count)), answers=count)
        alternating = [PLAIN, PING] * count
        yield one(f"{count} plain and ping pipelined", b"".join(alternating[:count]), answers=count)
        yield in_turn(f"{count} plain and ping in turn", *alternating[:count])
        yield one(f"{count} ping and plain pipelined", b"".join(alternating[1 : count + 1]), answers=count)
    yield one("fifty plain pipelined", b"".join(post(ECHO, b"%d" % n) for n in range(50)), answers=50)
    yield in_turn("all kinds in turn", *(sent for kind, sent in KINDS.items() if kind not in ("close", "nonsense")))
    yield in_turn("a long mixture", *[PLAIN, KINDS["V1"], PING, KINDS["query"], KINDS["stream"], PLAIN] * 5)
    three = (post(ECHO, b"first"), PING, post(ECHO, b"third"))
    for name, requests in {"plain, ping, plain": three, "ping, plain, ping": (PING, PLAIN, PING)}.items():
        together = b"".join(requests)
        for at in range(1, len(together)):
            yield Case(f"{name} cut at {at}", (Step((together[:at], together[at:]), 3),))
    for at in range(1, len(PLAIN)):  # the second one while the first one runs
        sent = post(ACTS, b"sleep 0.005") + PLAIN
        cut = len(sent) - len(PLAIN) + at
        yield Case(f"a request behind a running one, cut at {at}", (Step((sent[:cut], sent[cut:]), 2),))


# --- split ------------------------------------------------------------------------------------------------------------

SPLIT = {
    "plain": post(b"/predictions/echo", b"0123456789"),
    "no body": post(b"/predictions/echo", b""),
    "version": post(b"/predictions/echo/1.0", b"7"),
    "V1": post(b"/v1/models/echo:predict", V1, JSON),
    "V2": post(b"/v2/models/echo/infer", V2),
    "ping": PING,
    "query": post(ECHO + b"?a=1", b"7"),
    "percent": post(b"/predictions/%65cho", b"7"),
    "chunks": request(b"POST", ECHO, b"Transfer-Encoding: chunked", body=CHUNKS),
    "form": post(ECHO, b"a=1&b=2", URLENCODED),
    "HTTP/1.0": request(b"POST", ECHO, b"Content-Length: 1", body=b"7", version=b"1.0"),
    "bad header": post(ECHO, b"7", b"X : y"),
    "length and coding": request(b"POST", ECHO, b"Content-Length: 1", b"Transfer-Encoding: chunked", body=CHUNKS),
    "two lines before": b"\r\n\r\n" + PLAIN,
    "unknown model": post(b"/predictions/unknown", b"7"),
}


def split() -> Iterator[Case]:
    for name, sent in SPLIT.items():
        for at in range(1, len(sent)):
            yield Case(f"{name} cut at {at}", (Step((sent[:at], sent[at:])),))
        yield Case(f"{name} byte by byte", (Step(tuple(sent[at : at + 1] for at in range(len(sent)))),))
        yield Case(f"{name} byte by byte after plain", (Step((PLAIN,)), Step(tuple(bytes([byte]) for byte in sent))))


def incomplete() -> Iterator[Case]:
    """The client ends its half of the connection before its request is whole."""
    for name, sent in SPLIT.items():
        for at in range(0, len(sent), 13):
            yield Case(f"{name} ends at {at}", (Step((sent[:at],), 0),), leaves=True)
    yield Case("ends after an answer", (Step((PLAIN,)),), leaves=True)
    yield Case("ends after half a second request", (Step((PLAIN,)), Step((PLAIN[:50],), 0)), leaves=True)
    for target in (ACTS, ACTS + b"?a=1"):
        yield Case(f"ends while {target.decode()} runs", (Step((post(target, b"sleep 0.3"),), 0),), leaves=True)


def in_one_piece() -> Iterator[Case]:
    """A plain request and garbage in one segment, and the same in two: aiohttp answers the request only when it comes
    in a segment of its own."""
    for name, sent in GARBAGE.items():
        yield Case(f"garbage {name} in one piece with a request", (Step((PLAIN_REQUEST + sent,), 2),))
        yield Case(f"garbage {name} apart from its request", (Step((PLAIN_REQUEST, sent), 2),))


AUTHORIZATIONS = {
    "good": b"Authorization: Bearer " + TOKEN,
    "good in another case": b"aUTHORIZATION: bEARER " + TOKEN,
    "good behind blanks": b"Authorization: Bearer   " + TOKEN,
    "good behind a tab": b"Authorization:\tBearer " + TOKEN,
    "empty": b"Authorization:",
    "blank": b"Authorization:  ",
    "scheme alone": b"Authorization: Bearer",
    "token alone": b"Authorization: " + TOKEN,
    "wrong": b"Authorization: Bearer wrong",
    "prefix": b"Authorization: Bearer " + TOKEN[:10],
    "longer": b"Authorization: Bearer " + TOKEN + b"x",
    "basic": b"Authorization: Basic " + TOKEN,
    "not ASCII": b"Authorization: Bearer \xc3\xa4",
    "no UTF-8": b"Authorization: Bearer \xff",
    "twice": b"Authorization: Bearer " + TOKEN + b"\r\nAuthorization: Bearer " + TOKEN,
    "two": b"Authorization: Bearer wrong\r\nAuthorization: Bearer " + TOKEN,
}


def authorized() -> Iterator[Case]:
    """What is no token for one server is a header like any other for another."""
    for name, line in AUTHORIZATIONS.items():
        for target in (ECHO, b"/v2/models/echo/infer", b"/models/echo?min_worker=1"):
            sent = post(target, V2, line, method=b"PUT")
            yield one(f"token {name} for {target.decode()}", sent)
            yield in_turn(f"token {name} for {target.decode()} in turn", sent, PLAIN, sent, PING, sent)
            yield Case(f"token {name} for {target.decode()} cut", (Step((sent[:-5], sent[-5:])),))
    bad, good = (post(ECHO, b"7", AUTHORIZATIONS[name]) for name in ("wrong", "good"))
    yield in_turn("a good and a bad token in turn", good, bad, good, bad)
    yield one("a good and a bad token pipelined", good + bad + good, answers=3)
    yield Case("a large body without a token", (Step((post(ECHO, b"x" * MIB),)), Step((good,))))


def all_cases() -> list[Case]:
    return [*good(), *odd(), *hostile(), *answered(), *mixed(), *split(), *incomplete(), *in_one_piece()]


def with_token(case: Case, token: bytes) -> Case:
    """Each of its requests has it."""
    line = b"Authorization: Bearer " + token + b"\r\n"
    steps = []
    for step in case.steps:
        sent, end, cuts = b"".join(step.segments), 0, [0]
        for segment in step.segments:
            end += len(segment)
            cuts.append(end + len(line) * sent.count(HOST, 0, end))
        sent = sent.replace(HOST, HOST + line)
        steps.append(replace(step, segments=tuple(sent[a:b] for a, b in itertools.pairwise(cuts))))
    return replace(case, steps=tuple(steps))


def for_token(case: Case, token: bytes) -> Case:
    """With the server's token where ``TOKEN`` stands."""
    return replace(
        case,
        steps=tuple(
            replace(step, segments=tuple(segment.replace(TOKEN, token) for segment in step.segments))
            for step in case.steps
        ),
    )
