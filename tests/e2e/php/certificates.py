"""An authority of the test, and the certificates that it gives to Kaspi's stand-in and to the site."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = "only-of-this-test-0123"


@dataclass(frozen=True)
class Papers:
    """Files in PEM."""

    authority: Path
    server: Path
    """Certificate and key."""
    certificate: Path
    key: Path
    """Of the site, protected by ``PASSWORD``."""

    def of_server(self) -> ssl.SSLContext:
        """For a server that wants to see a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def issue(folder: Path, client: str = "shop-site") -> Papers:
    """A new authority with a certificate for 127.0.0.1 and one for a client of this name."""
    folder.mkdir(parents=True, exist_ok=True)
    root = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("test authority", root, "test authority", root, is_authority=True)
    papers = Papers(*(folder / name for name in ("authority.pem", "server.pem", "client.cer", "client.key")))
    papers.authority.write_bytes(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    papers.server.write_bytes(_certificate("127.0.0.1", key, "test authority", root) + _pem(key))
    key = ec.generate_private_key(ec.SECP256R1())
    papers.certificate.write_bytes(_certificate(client, key, "test authority", root))
    papers.key.write_bytes(_pem(key, PASSWORD))
    return papers


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    by: str,
    root: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool = False,
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False)
    )
    if name == "127.0.0.1":
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        builder = builder.add_extension(address, critical=False)
    return builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey, password: str = "") -> bytes:
    kind = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind)
