"""How a client shows who it is and whom it trusts: TLS roots, its own certificate, and a bearer token.

    Access(ca="ca.pem", token_file="/run/secrets/token")     TLS, and a token that is read at every call
    Access(ca="ca.pem", certificate="me.pem", key="me.key")  mTLS
    Access.from_environment()                                from TRUELINE_CA, TRUELINE_TOKEN_FILE, ...
    Access()                                                 plaintext and no token: loopback

A token is never sent over plaintext to anything but loopback.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from trueline.tokens import file_state

ENVIRONMENT = {
    "ca": "TRUELINE_CA",
    "certificate": "TRUELINE_CERTIFICATE",
    "key": "TRUELINE_KEY",
    "server_name": "TRUELINE_SERVER_NAME",
    "token": "TRUELINE_TOKEN",
    "token_file": "TRUELINE_TOKEN_FILE",
}
TLS_VARIABLE = "TRUELINE_TLS"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Access:
    """What a client is given to be let in.

    ca           PEM file of the roots to trust; with tls=True and no file, those that gRPC brings
    certificate  PEM file of the client's certificate and its chain, for servers that ask for one; needs `key`
    server_name  the name that the servers' certificates hold, where it is not the one they are called by
    token        the token itself
    token_file   a file that holds nothing else; read at every call, so that a new token needs no restart
    tls          TLS or not; by default where ca or certificate is given
    """

    ca: PathLike | None = None
    certificate: PathLike | None = None
    key: PathLike | None = None
    server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: PathLike | None = None
    tls: bool | None = None

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key: give both or neither")
        if self.token and self.token_file:
            raise ValueError("token and token_file: give one of them")
        if self.tls is False and (self.ca or self.certificate):
            raise ValueError("tls: ca and certificate need it")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: object) -> Access:
        """From TRUELINE_CA, _CERTIFICATE, _KEY, _SERVER_NAME, _TOKEN, _TOKEN_FILE and TRUELINE_TLS=1.

        What is `given`, and not None, goes before the variable.
        """
        variables = os.environ if environment is None else environment
        found: dict[str, object] = {name: variables.get(key) or None for name, key in ENVIRONMENT.items()}
        found["tls"] = True if variables.get(TLS_VARIABLE) == "1" else None
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.keys() & {"token", "token_file"}:
            found.pop("token"), found.pop("token_file")
        return cls(**{key: value for key, value in {**found, **chosen}.items() if value is not None})  # type: ignore[arg-type]

    @property
    def encrypts(self) -> bool:
        """Whether channels are opened with TLS."""
        return bool(self.tls or self.ca or self.certificate)

    def metadata(self) -> list[tuple[str, str]]:
        """What goes with each call: the token as it is now. ValueError where its file holds none."""
        token = self.token
        if self.token_file:
            try:
                token = Path(self.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"token_file: cannot read {os.fspath(self.token_file)}: {error}") from None
        if not token:
            if self.token_file:
                raise ValueError(f"token_file: {os.fspath(self.token_file)} is empty")
            return []
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("token: must be printable ASCII without spaces")
        return [("authorization", f"Bearer {token}")]

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS credentials from the files as they are now; None for plaintext. ValueError for a bad one."""
        if not self.encrypts:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=_bytes_of("ca", self.ca),
            private_key=_bytes_of("key", self.key),
            certificate_chain=_bytes_of("certificate", self.certificate),
        )

    def state(self) -> tuple[object, ...]:
        """Changes when a certificate file does: a channel opened before is then out of date."""
        files = (self.ca, self.certificate, self.key)
        return tuple(file_state(Path(each)) for each in files if each)

    def require_safe(self, addresses: list[str]) -> None:
        """ValueError where a token would go over plaintext to anything but loopback."""
        if self.encrypts or not (self.token or self.token_file):
            return
        for address in addresses:
            if not is_loopback(address):
                raise ValueError(
                    f"target: a token goes to {address} over TLS only; give `ca` (TRUELINE_CA), or tls=True"
                )


def _bytes_of(name: str, path: PathLike | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: cannot read {os.fspath(path)}: {error.strerror}") from None


def is_loopback(address: str) -> bool:
    """Whether host:port is this machine by its form: "127.0.0.1:1", "[::1]:1", "localhost:1".

    >>> is_loopback("0.0.0.0:50051"), is_loopback("dns:///localhost:50051")
    (False, True)
    """
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of an address: "policy-0.policy" of "dns:///policy-0.policy:50051"."""
    rest = address.rpartition("/")[2]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        rest = rest.removeprefix(scheme)
    host, colon, port = rest.rpartition(":")
    return (host if colon and port.isdecimal() else rest).removeprefix("[").removesuffix("]")
