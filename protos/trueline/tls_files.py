"""A server's certificate, key and the roots of its callers, from files that may be replaced while it runs.

    files = TlsFiles(certificate, key, client_ca)       ValueError where they do not fit together
    server_credentials(files)                           for grpc; each handshake sees the newest files
    files.context                                       for an HTTP server, after files.refresh()

A replacement that is not whole yet, or whose key is another's, is left alone until it is: the certificate
before it stays. Nothing is restarted, and connections that are open go on.
"""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path

import grpc

from trueline.tokens import file_state

log = logging.getLogger(__name__)


class TlsFiles:
    """The files as they were when they last fitted together."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self.certificate, self.key, self.client_ca = certificate, key, client_ca
        self.loads = 0
        self._lock = threading.Lock()
        self._seen = self._state()
        self._load()

    def refresh(self) -> bool:
        """Reads the files again if any of them changed; whether there is something new."""
        with self._lock:
            state = self._state()
            if state == self._seen:
                return False
            try:
                self._load()
            except ValueError as error:
                log.error("certificate not read again, the one before stays", extra={"fault": str(error)})
                return False
            self._seen = state
            log.info("certificate read again", extra={"file": str(self.certificate)})
            return True

    def _state(self) -> tuple[object, ...]:
        return tuple(file_state(each) for each in (self.certificate, self.key, self.client_ca) if each)

    def _load(self) -> None:
        """Reads all, and holds them against each other. ValueError says which file is wrong."""
        context = self._context()
        try:
            chain, private_key = self.certificate.read_bytes(), self.key.read_bytes()
            client_roots = self.client_ca.read_bytes() if self.client_ca else None
        except OSError as error:
            raise ValueError(str(error)) from None
        self.chain, self.private_key, self.client_roots = chain, private_key, client_roots
        self.context = context
        self.loads += 1

    def _context(self) -> ssl.SSLContext:
        """A new one each time: a root that was taken out would stay in an old one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{self.certificate} and {self.key}: {error}") from None
        if self.client_ca:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"{self.client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a gRPC server that follow the files; with client_ca, callers need a certificate."""

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(files.private_key, files.chain)], root_certificates=files.client_roots
        )

    loaded = files.loads

    def newer() -> grpc.ServerCertificateConfiguration | None:
        nonlocal loaded
        files.refresh()
        if files.loads == loaded:
            return None
        loaded = files.loads
        return configuration()

    required = files.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(configuration(), newer, require_client_authentication=required)
