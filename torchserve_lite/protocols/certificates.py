"""Whose certificate the encrypted listeners show: read at the start, and again when its files have been replaced."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.config.settings import TlsConfig
from torchserve_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0  # seconds between two looks at the files
_SELF_SIGNED_FOR = timedelta(days=365)
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secret and authenticated; those of 1.3 all are
_JAVA_KEYSTORES = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")  # JKS and JCEKS, by their first bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A private key, its certificate and those that vouch for it, as PEM. The key is not encrypted any more."""

    key: bytes = field(repr=False)
    chain: bytes
    source: str  # where it is from, in words for the log
    valid_from: datetime
    valid_until: datetime


class Certificates:
    """``context`` is for the handshakes of new connections; where gRPC makes them, ``identity`` and ``authorities``, of
    the clients, are. ``hosts``: of the encrypted listeners; without one nothing is read."""

    def __init__(self, config: TlsConfig, hosts: Sequence[str]) -> None:
        self._config = config
        self._hosts = hosts
        self._seen: list[tuple[int, int, int] | None] = []
        self.context: ssl.SSLContext
        self.identity: Identity
        self.authorities: bytes | None

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[Certificates]:
        """Entered: there is a context (else ConfigurationError). Until it is left, replaced files are read."""
        if not self._hosts:
            yield self
            return
        self._seen = self._stamps()
        self.context, self.identity, self.authorities = await asyncio.to_thread(self._load)
        watching = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            watching.cancel()

    def _load(self) -> tuple[ssl.SSLContext, Identity, bytes | None]:
        config = self._config
        if config.keystore is not None:
            identity = _from_keystore(config.keystore, config.keystore_password)
        elif config.private_key is not None and config.certificate is not None:
            identity = _from_pem(config.private_key, config.private_key_password, config.certificate)
        elif config.private_key is not None or config.certificate is not None:
            missing = "private_key_file" if config.private_key is None else "certificate_file"
            raise ConfigurationError(f"{missing} is not set: TLS needs both private_key_file and certificate_file.")
        else:
            identity = _self_signed(self._hosts)
        authorities = None if config.client_ca is None else _read("client_ca_file", config.client_ca)
        context = _context(identity, config.client_ca, authorities)
        _log_validity(identity)
        return context, identity, authorities

    async def _watch(self) -> None:
        """Runs until it is cancelled. By looking instead of by the system's events: those tell nothing of a network's
        file systems, and a secret of Kubernetes is replaced by moving a link two folders above."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            await self.refresh()

    async def refresh(self) -> None:
        """Takes what has been replaced. What is no good is logged once, and the old is shown on."""
        now = await asyncio.to_thread(self._stamps)
        if now == self._seen:
            return
        self._seen = now  # from before they are read: what is written meanwhile is read the next time
        try:
            self.context, self.identity, self.authorities = await asyncio.to_thread(self._load)
        except ConfigurationError as error:
            log.error("The new certificate is not used, and the old one is shown on: %s", error)
        except Exception:
            log.exception("Reading the new certificate failed unexpectedly; the old one is shown on")

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        """What changes when a file is written or replaced, or a link on the way to it."""
        config = self._config
        stamps: list[tuple[int, int, int] | None] = []
        for file in (config.keystore, config.private_key, config.certificate, config.client_ca):
            try:
                stat = os.stat(file) if file is not None else None
            except OSError:  # reading it tells why
                stat = None
            stamps.append(stat and (stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return stamps


def _log_validity(identity: Identity) -> None:
    now = datetime.now(UTC)
    until = f"{identity.valid_until:%Y-%m-%d %H:%M} UTC"
    if identity.valid_until < now:
        log.warning("The certificate of %s has expired on %s: clients will refuse it.", identity.source, until)
    elif identity.valid_from > now:
        log.warning(
            "The certificate of %s is not valid before %s UTC: clients will refuse it.",
            identity.source,
            f"{identity.valid_from:%Y-%m-%d %H:%M}",
        )
    else:
        log.info("Encrypted listeners show the certificate of %s, valid until %s.", identity.source, until)


def _context(identity: Identity, client_ca: Path | None, authorities: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make the server work with it
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _as_file(identity.key + identity.chain) as file:
            context.load_cert_chain(file)
    except ssl.SSLError as error:  # such as a key that is too short to be allowed
        raise ConfigurationError(f"{identity.source} cannot be used: {_reason(error)}.") from error
    if authorities is not None:
        try:
            context.load_verify_locations(cadata=authorities.decode("latin-1"))
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"client_ca_file={client_ca} has no certificate in PEM form.") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Python's ssl reads keys from files only. This one is memory where the system can do that, so that a key that was
    encrypted on the disk is not written there as it is."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("certificate"), "wb") as memory:
            memory.write(data)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}={path} cannot be read: {error.strerror}.") from error


def _from_pem(key_file: Path, password: str, certificate_file: Path) -> Identity:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    key_text, chain_text = _read("private_key_file", key_file), _read("certificate_file", certificate_file)
    is_encrypted = b"ENCRYPTED" in key_text
    if is_encrypted and not password:
        raise ConfigurationError(
            f"private_key_file={key_file} is encrypted: set private_key_pass to its passphrase "
            "(or, from the environment, private_key_pass=$$NAME$$)."
        )
    try:
        key = load_pem_private_key(key_text, password.encode() if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if is_encrypted:
            raise ConfigurationError(f"private_key_file={key_file}: private_key_pass does not open it.") from error
        raise ConfigurationError(
            f"private_key_file={key_file} has no private key in PEM form (PKCS8, or PKCS1 and EC of OpenSSL)."
        ) from error
    try:
        chain = load_pem_x509_certificates(chain_text)
        public_keys = [certificate.public_key() for certificate in chain]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"certificate_file={certificate_file} has no certificate in PEM form.") from error
    own = key.public_key()
    if public_keys[0] != own:
        where = "not the first one in" if own in public_keys else "not in"
        raise ConfigurationError(
            f"private_key_file={key_file} and certificate_file={certificate_file} do not belong together: the "
            f"certificate of this key is {where} the second file, where it has to come first."
        )
    return _identity(key, chain, f"certificate_file={certificate_file}")


def _from_keystore(file: Path, password: str) -> Identity:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

    data = _read("keystore", file)
    if data.startswith(_JAVA_KEYSTORES):
        raise ConfigurationError(
            f"keystore={file} is in Java's own form (JKS), which only Java reads. Convert it once: keytool "
            f"-importkeystore -srckeystore {file} -destkeystore {file.with_suffix('.p12')} -deststoretype PKCS12"
        )
    if b"-----BEGIN" in data[:4096]:
        raise ConfigurationError(
            f"keystore={file} is in PEM form: use private_key_file and certificate_file instead of keystore."
        )
    try:
        store = load_pkcs12(data, password.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"keystore={file} is no keystore in PKCS12 form, or keystore_pass does not open it."
        ) from error
    if store.key is None or store.cert is None:
        raise ConfigurationError(f"keystore={file} has no private key with a certificate.")
    chain, others = [store.cert.certificate], [other.certificate for other in store.additional_certs]
    while issuer := next((one for one in others if one.subject == chain[-1].issuer), None):
        others.remove(issuer)
        chain.append(issuer)
    return _identity(store.key, chain, f"keystore={file}")


def _identity(key: PrivateKeyTypes, chain: Sequence[Certificate], source: str) -> Identity:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Identity(
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        chain=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        source=source,
        valid_from=chain[0].not_valid_before_utc,
        valid_until=chain[0].not_valid_after_utc,
    )


def _self_signed(hosts: Sequence[str]) -> Identity:
    """For trying things out, as TorchServe makes one. It is another one after each start."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(("localhost", "127.0.0.1", "::1", *hosts, socket.gethostname())):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if host.isascii():
                names.append(x509.DNSName(host))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + _SELF_SIGNED_FOR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return _identity(key, [certificate], f"this start, self-signed (SHA-256 {fingerprint})")
