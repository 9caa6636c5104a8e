"""Which files make a certificate, what is said of those that do not, and that new ones are taken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import PrivateFormat

from tests.certificates import Certified, issue
from torchserve_lite.config.loading import load_config
from torchserve_lite.config.settings import TlsConfig
from torchserve_lite.errors import ConfigurationError
from torchserve_lite.protocols import certificates
from torchserve_lite.protocols.certificates import Certificates

AUTHORITY = issue("authority", authority=True)
BETWEEN = issue("between", AUTHORITY, authority=True)
SERVER = issue("server", BETWEEN)
RSA_SERVER = issue("rsa server", BETWEEN, rsa_key=True)
JKS = b"\xfe\xed\xfe\xed\0\0\0\2"


def shown(context: ssl.SSLContext, *, to_anybody: bool = False) -> x509.Certificate:
    """The certificate that a client gets, who trusts nobody but the authority."""
    trusting = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    if to_anybody:
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"")


def pem(folder: Path, key: bytes, chain: bytes, **more: object) -> TlsConfig:
    (folder / "key.pem").write_bytes(key)
    (folder / "chain.pem").write_bytes(chain)
    return TlsConfig(private_key=folder / "key.pem", certificate=folder / "chain.pem", **more)  # type: ignore[arg-type]


def keystore(folder: Path, data: bytes, password: str = "changeit") -> TlsConfig:
    (folder / "store.p12").write_bytes(data)
    return TlsConfig(keystore=folder / "store.p12", keystore_password=password)


CHAIN = SERVER.pem + BETWEEN.pem
RSA_CHAIN = RSA_SERVER.pem + BETWEEN.pem
SECRET = {"private_key_password": "s3cret"}
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


@pytest.mark.parametrize(
    ("tls", "server"),
    [
        pytest.param(lambda f: pem(f, SERVER.key_pem(), CHAIN), SERVER, id="EC, PKCS8"),
        pytest.param(
            lambda f: pem(f, EC_PARAMETERS + SERVER.key_pem(PrivateFormat.TraditionalOpenSSL), CHAIN),
            SERVER,
            id="EC as openssl ecparam writes it",
        ),
        pytest.param(lambda f: pem(f, RSA_SERVER.key_pem(), RSA_CHAIN), RSA_SERVER, id="RSA, PKCS8"),
        pytest.param(
            lambda f: pem(f, RSA_SERVER.key_pem(PrivateFormat.TraditionalOpenSSL), RSA_CHAIN), RSA_SERVER, id="PKCS1"
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(password=b"s3cret"), CHAIN, **SECRET), SERVER, id="encrypted PKCS8"
        ),
        pytest.param(
            lambda f: pem(
                f, RSA_SERVER.key_pem(PrivateFormat.TraditionalOpenSSL, b"s3cret"), RSA_CHAIN, **SECRET
            ),
            RSA_SERVER,
            id="encrypted PKCS1",
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(), CHAIN, **SECRET), SERVER, id="passphrase that is not needed any more"
        ),
        pytest.param(
            lambda f: pem(f, b"Text before\n" + SERVER.key_pem() + CHAIN, SERVER.key_pem() + CHAIN),
            SERVER,
            id="both in each file",
        ),
        pytest.param(lambda f: keystore(f, SERVER.keystore(b"changeit", BETWEEN)), SERVER, id="keystore"),
        pytest.param(
            lambda f: keystore(f, RSA_SERVER.keystore(b"s3cret", AUTHORITY, BETWEEN), "s3cret"),
            RSA_SERVER,
            id="keystore with its chain in disorder",
        ),
    ],
)  # fmt: skip
async def test_client_that_knows_the_authority_trusts_the_server(
    tmp_path: Path, tls: Callable[[Path], TlsConfig], server: Certified
) -> None:
    async with Certificates(tls(tmp_path), ["localhost"]).kept_fresh() as kept:
        assert shown(kept.context) == server.certificate


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        pytest.param(
            lambda f: TlsConfig(private_key=f / "none", certificate=f / "none"),
            "^private_key_file=.*/none cannot be read: No such file",
            id="no file",
        ),
        pytest.param(lambda f: TlsConfig(keystore=f), "^keystore=.* cannot be read: Is a directory", id="folder"),
        pytest.param(
            lambda f: TlsConfig(private_key=f / "k"), "^certificate_file is not set: .* both", id="no certificate_file"
        ),
        pytest.param(
            lambda f: TlsConfig(certificate=f / "c"), "^private_key_file is not set: .* both", id="no private_key_file"
        ),
        pytest.param(
            lambda f: pem(f, CHAIN, CHAIN), "^private_key_file=.*key.pem has no private key", id="certificate as key"
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(), SERVER.key_pem()),
            "^certificate_file=.*chain.pem has no certificate",
            id="key as certificate",
        ),
        pytest.param(lambda f: pem(f, SERVER.key_pem(), b""), "^certificate_file=.* has no certificate", id="empty"),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(), RSA_CHAIN),
            "^private_key_file=.*key.pem and certificate_file=.*chain.pem do not belong together: .* is not in",
            id="another's certificate",
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(), BETWEEN.pem + SERVER.pem),
            "do not belong together: .* is not the first one in",
            id="certificates in the wrong order",
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(password=b"s3cret"), CHAIN),
            "^private_key_file=.* is encrypted: set private_key_pass",
            id="no passphrase",
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(password=b"other"), CHAIN, **SECRET),
            "^private_key_file=.*: private_key_pass does not open it.$",
            id="wrong passphrase",
        ),
        pytest.param(
            lambda f: pem(f, SERVER.key_pem(), CHAIN, client_ca=f / "key.pem"),
            "^client_ca_file=.*key.pem has no certificate",
            id="authority that is none",
        ),
        pytest.param(
            lambda f: keystore(f, SERVER.keystore(b"other")), "^keystore=.* keystore_pass", id="wrong password"
        ),
        pytest.param(lambda f: keystore(f, b"?" * 99), "^keystore=.* is no keystore", id="no keystore"),
        pytest.param(
            lambda f: keystore(f, JKS), r"^keystore=.*JKS.*: keytool -importkeystore -srckeystore .*store.p12", id="JKS"
        ),
        pytest.param(lambda f: keystore(f, CHAIN), "^keystore=.* certificate_file instead", id="PEM as keystore"),
    ],
)  # fmt: skip
async def test_file_that_is_no_good_ends_the_start_and_is_named(
    tmp_path: Path, tls: Callable[[Path], TlsConfig], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        async with Certificates(tls(tmp_path), ["localhost"]).kept_fresh():
            pass
    assert "s3cret" not in str(raised.value)


async def test_nothing_is_read_where_no_address_is_encrypted(tmp_path: Path) -> None:
    async with Certificates(TlsConfig(keystore=tmp_path / "none"), []).kept_fresh() as kept:
        assert not hasattr(kept, "context")


async def test_without_files_a_certificate_for_the_listeners_names_is_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Certificates(TlsConfig(), ["127.0.0.1", "models.example"]).kept_fresh() as kept:
        certificate = shown(kept.context, to_anybody=True)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "models.example"} <= set(names.get_values_for_type(x509.DNSName))
    assert "self-signed" in caplog.text


@pytest.mark.parametrize(("days", "warned"), [(-1, True), (30, False)])
async def test_expired_certificate_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, warned: bool
) -> None:
    key, chain = issue("server", days=days).write(tmp_path)
    async with Certificates(TlsConfig(private_key=key, certificate=chain), ["h"]).kept_fresh():
        assert ("has expired on" in caplog.text) is warned


# Files that are replaced


async def test_certificate_of_a_secret_that_is_swapped_is_taken(tmp_path: Path) -> None:
    """As Kubernetes does it: the files are links into ``..data``, a link to a folder, and only that changes."""
    old, new = issue("old", AUTHORITY), issue("new", AUTHORITY)
    for name, server in (("1", old), ("2", new)):
        (tmp_path / name).mkdir()
        server.write(tmp_path / name)
    (tmp_path / "..data").symlink_to("1")
    for name in ("key.pem", "chain.pem"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    tls = TlsConfig(private_key=tmp_path / "key.pem", certificate=tmp_path / "chain.pem")
    async with Certificates(tls, ["localhost"]).kept_fresh() as kept:
        await kept.refresh()
        assert shown(kept.context).serial_number == old.serial
        (tmp_path / "..data_tmp").symlink_to("2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        await kept.refresh()
        assert shown(kept.context).serial_number == new.serial


async def test_broken_new_pair_is_logged_once_and_the_old_one_shown_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is written before its certificate, and somebody looks in between."""
    old, new = issue("old", AUTHORITY), issue("new", AUTHORITY)
    key, chain = old.write(tmp_path)
    async with Certificates(TlsConfig(private_key=key, certificate=chain), ["localhost"]).kept_fresh() as kept:
        key.write_bytes(new.key_pem())
        await kept.refresh()
        await kept.refresh()
        assert shown(kept.context).serial_number == old.serial
        assert caplog.text.count("the old one is shown on") == 1
        chain.unlink()
        await kept.refresh()
        chain.write_bytes(new.pem)
        await kept.refresh()
        assert shown(kept.context).serial_number == new.serial


async def test_files_are_looked_at_again_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_LOOK_AGAIN", 0.001)
    old, new = issue("old", AUTHORITY), issue("new", AUTHORITY)
    key, chain = old.write(tmp_path)
    looked = asyncio.Event()

    class Watched(Certificates):
        async def refresh(self) -> None:
            await super().refresh()
            if shown(self.context).serial_number == new.serial:
                looked.set()

    async with Watched(TlsConfig(private_key=key, certificate=chain), ["localhost"]).kept_fresh():
        new.write(tmp_path)
        async with asyncio.timeout(30):
            await looked.wait()


# Secrets


def test_secrets_are_neither_kept_nor_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.properties"
    file.write_text("inference_address=https://h\nkeystore=k\nkeystore_pass=hush\nprivate_key_pass=hush\n")
    config = load_config(file, {}, {})
    assert (config.tls.keystore_password, config.tls.private_key_password) == ("hush", "hush")
    assert "hush" not in repr(config)
