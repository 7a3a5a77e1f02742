"""Certificates of a made-up authority, for servers that tests start."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """Issues certificates, for a day unless told."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.certificate = (
            _certificate(self._name, self._name, self._key, -DAY, DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def believed(self) -> ssl.SSLContext:
        """What a caller uses who believes this authority besides those that production believes."""
        tls = httpx.create_ssl_context(trust_env=False)
        tls.load_verify_locations(cadata=self.pem())
        return tls

    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, *hosts: str, starts: timedelta = -DAY, ends: timedelta = DAY) -> ssl.SSLContext:
        """What a server uses that is known by these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(_name(hosts[0]), self._name, key, starts, ends)
        made = made.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        return _server(made.sign(self._key, hashes.SHA256()), key)


def self_signed(host: str) -> ssl.SSLContext:
    """What a server uses whose certificate is vouched for by nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _certificate(_name(host), _name(host), key, -DAY, DAY)
    made = made.add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
    return _server(made.sign(key, hashes.SHA256()), key)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    starts: timedelta,
    ends: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _server(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        tls.load_cert_chain(chain)
    return tls


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
