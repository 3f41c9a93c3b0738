"""Secrets as cert-manager and an operator would make them, in folders."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deployed import LOOPBACK
from manifests import at, named, of_kind

USAGES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}


class Issued:
    """What a Certificate asks for, with its key; signed by `authority`, else by itself."""

    def __init__(self, spec, authority=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority.certificate.subject if authority else name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=at(spec, "isCA", default=False), path_length=None), critical=True)
        )
        purposes = [USAGES[usage] for usage in at(spec, "usages", default=[]) if usage in USAGES]
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        names = [x509.DNSName(each) for each in at(spec, "dnsNames", default=[])]
        if names:
            # Services are at the loopback address here.
            names.append(x509.IPAddress(ipaddress.ip_address(LOOPBACK)))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self.certificate = builder.sign(authority.key if authority else self.key, hashes.SHA256())
        self.authority = authority or self

    def write(self, folder):
        folder.mkdir()
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        (folder / "tls.key").write_bytes(key)
        (folder / "tls.crt").write_bytes(self.certificate.public_bytes(pem))
        (folder / "ca.crt").write_bytes(self.authority.certificate.public_bytes(pem))


def make_secrets(objects, folder):
    """Folders by the name of each Secret."""
    issued = {}
    certificates = sorted(of_kind(objects, "Certificate"), key=lambda each: not at(each, "spec", "isCA", default=False))
    for certificate in certificates:
        spec = certificate["spec"]
        issuer = named(objects, "Issuer", spec["issuerRef"]["name"])
        authority = issued.get(at(issuer, "spec", "ca", "secretName"))
        issued[spec["secretName"]] = Issued(spec, authority)
    for name, each in issued.items():
        each.write(folder / name)
    for name, letter in (("dssd-client-tokens", "c"), ("dssd-draft-token", "d")):
        (folder / name).mkdir()
        (folder / name / "tokens").write_text(letter * 32 + "\n")
    return {each.name: each for each in folder.iterdir()}
