"""Signature Version 4, by the examples that AWS publishes for S3 (the keys are theirs, and open no door)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from yarl import URL

from torchserve_lite.config.settings import S3Credentials
from torchserve_lite.management.s3_signing import signed_headers

CREDENTIALS = S3Credentials(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
BUCKET = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("path", "headers", "signature"),
    [
        pytest.param(
            "/test.txt",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            id="object",
        ),
        pytest.param(
            "/?lifecycle", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", id="empty argument"
        ),
        pytest.param(
            "/?max-keys=2&prefix=J",
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            id="arguments",
        ),
    ],
)
def test_signature_is_that_of_the_published_example(path: str, headers: dict[str, str], signature: str) -> None:
    sent = signed_headers(URL(BUCKET + path), CREDENTIALS, NOW, headers)

    assert sent["Authorization"].endswith(f"Signature={signature}")
    assert "/20130524/us-east-1/s3/aws4_request," in sent["Authorization"]


def test_session_token_is_sent_and_signed() -> None:
    credentials = S3Credentials(access_key="a", secret_key="b", session_token="t")
    sent = signed_headers(URL(f"{BUCKET}/m.mar"), credentials, NOW)

    assert sent["x-amz-security-token"] == "t"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in sent["Authorization"]


def test_secrets_are_not_in_what_is_shown_of_credentials() -> None:
    assert "wJalr" not in repr(CREDENTIALS)
