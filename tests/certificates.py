"""Certificates for tests, made by them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Certified:
    """A key and its certificate, by which others may be signed."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def key_pem(self, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> bytes:
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, form, encryption)

    def keystore(self, password: bytes, *others: Certified) -> bytes:
        more = [other.certificate for other in others]
        return pkcs12.serialize_key_and_certificates(
            b"server", self.key, self.certificate, more, BestAvailableEncryption(password)
        )

    def write(self, folder: Path, *issuers: Certified) -> tuple[Path, Path]:
        """The files of key and chain."""
        key, chain = folder / "key.pem", folder / "chain.pem"
        key.write_bytes(self.key_pem())
        chain.write_bytes(b"".join(one.pem for one in (self, *issuers)))
        return key, chain


def issue(
    name: str, issuer: Certified | None = None, *, rsa_key: bool = False, authority: bool = False, days: int = 30
) -> Certified:
    """Without an issuer it signs itself. ``days``: until it expires; negative for one that has."""
    key = _rsa_key() if rsa_key else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Certified(key=key, certificate=builder.sign(key if issuer is None else issuer.key, hashes.SHA256()))


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    """Making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
