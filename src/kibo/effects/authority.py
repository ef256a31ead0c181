"""The authority by whose certificates boxes know the gateway, and that nobody else is told to trust.

One an installation, below its state directory. Its key is read by the gateway's process alone; boxes get the
certificate, and the host's own trust is never touched.
"""

import datetime
import ipaddress
import os
import ssl
from collections import OrderedDict
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kibo.effects.wires import PROTOCOLS
from kibo.store.locking import holding

YEARS: Final = 5
#: Made anew when less than this is left, so that no session that runs for weeks outlives it.
RENEW_DAYS: Final = 90
LEAF_DAYS: Final = 7
#: Clocks of boxes are the host's; a day covers a host whose own clock was put back.
SLACK: Final = datetime.timedelta(days=1)
#: Names whose contexts are kept. Each holds some 50 KB; a box that asks for more names costs time, and no memory.
MAX_LEAVES: Final = 512
#: A leaf is made anew after this, well before its end.
LEAF_S: Final = 24 * 3600
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Authority:
    """Issues certificates in the name of any host, for programs in boxes.

    Args:
        certificate: Its own.
        key: What it signs with.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        # One key for all leaves: whoever had one would have them all, and it never leaves this process.
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[str, tuple[datetime.datetime, ssl.SSLContext]] = OrderedDict()

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Reads the authority of a directory, or makes it: once, however many processes ask at the same time.

        Raises:
            OSError: The directory cannot be written.
            ValueError: Its files are not what this wrote.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with holding(directory / "lock"):
            path = directory / "authority.pem"
            if path.exists():
                found = cls._read(path.read_bytes())
                if found._certificate.not_valid_after_utc - _now() > datetime.timedelta(days=RENEW_DAYS):
                    return found
            made = cls._make()
            # Key and certificate in one file and one rename: there is never one of them without the other.
            new = directory / "authority.pem.new"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                os.fchmod(fd, 0o600)
                file.write(_private(made._key) + made.certificate_pem)
                file.flush()
                os.fsync(fd)
            os.replace(new, path)
            return made

    @classmethod
    def _read(cls, data: bytes) -> Self:
        key = serialization.load_pem_private_key(data, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is of another kind")
        return cls(x509.load_pem_x509_certificate(data), key)

    @classmethod
    def _make(cls) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "Kibo: trusted in boxes of this machine only")]
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = _usage(signs_certificates=True)
        certificate = (
            _builder(name, name, key.public_key(), datetime.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate that boxes trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, host: str) -> ssl.SSLContext:
        """Gives what to answer a TLS client with that asked for `host`. About 0.5 ms for a new name."""
        known = self._contexts.get(host)
        if known is not None and (_now() - known[0]).total_seconds() < LEAF_S:
            self._contexts.move_to_end(host)
            return known[1]
        context = self._new_context(host)
        self._contexts[host] = _now(), context
        self._contexts.move_to_end(host)
        while len(self._contexts) > MAX_LEAVES:
            self._contexts.popitem(last=False)
        return context

    def leaf(self, host: str) -> x509.Certificate:
        """Issues a certificate for a host name or an address."""
        issuer = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        # The subject stays empty: it is the alternative name that clients read, and a common name has 64 characters.
        return (
            _builder(
                x509.Name([]),
                self._certificate.subject,
                self._leaf_key.public_key(),
                datetime.timedelta(LEAF_DAYS),
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(server, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def _new_context(self, host: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.set_alpn_protocols(list(PROTOCOLS))
        # `load_cert_chain` reads files only; this one is in memory and has no name.
        with open(os.memfd_create("leaf", os.MFD_CLOEXEC), "wb") as file:
            leaf = self.leaf(host).public_bytes(serialization.Encoding.PEM)
            file.write(_private(self._leaf_key) + leaf)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lasts: datetime.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - SLACK)
        .not_valid_after(_now() + lasts)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
