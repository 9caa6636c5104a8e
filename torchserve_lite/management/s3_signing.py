"""Signs a GET for S3 (AWS Signature Version 4), which is how objects encrypted with SSE-KMS have to be asked for."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, unquote

from yarl import URL

from torchserve_lite.config.settings import S3Credentials

_NO_BODY = hashlib.sha256(b"").hexdigest()
_SAFE = "-_.~"


def signed_headers(
    url: URL, credentials: S3Credentials, now: datetime, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The headers to send with a GET of ``url``. ``now`` is in UTC; ``headers`` are signed too and in the result."""
    host = url.raw_host or ""
    if not url.is_default_port():
        host = f"{host}:{url.port}"
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    sent = {"x-amz-content-sha256": _NO_BODY, "x-amz-date": stamp, **(headers or {})}
    if credentials.session_token:
        sent["x-amz-security-token"] = credentials.session_token
    signed = sorted({"host": host, **{name.lower(): value.strip() for name, value in sent.items()}}.items())
    names = ";".join(name for name, _ in signed)
    request = "\n".join(
        (
            "GET",
            quote(unquote(url.raw_path) or "/", safe=f"/{_SAFE}"),  # S3 alone has paths encoded once
            _canonical_query(url),
            *(f"{name}:{value}" for name, value in signed),
            "",
            names,
            _NO_BODY,
        )
    )
    scope = f"{stamp[:8]}/{credentials.region}/s3/aws4_request"
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    sent["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return sent


def _canonical_query(url: URL) -> str:
    """Sorted by name, and encoded as AWS does; ``+`` is a plus there."""
    pairs = [pair.partition("=")[::2] for pair in filter(None, url.raw_query_string.split("&"))]
    encoded = sorted((quote(unquote(name), safe=_SAFE), quote(unquote(value), safe=_SAFE)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
