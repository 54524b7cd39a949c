"""Settings of a service: declared once as a dataclass, given as flags, every fault reported at once.

@dataclass(frozen=True, kw_only=True)
class RewardSettings(ServerSettings):
    rules: tuple[str, ...] = setting((), "NAME=module:function.", flag="--rule", repeated=True)

    def faults(self) -> list[str]:           # what no single flag can know
        return [*super().faults(), *([] if self.rules else ["--rule: give at least one"])]

settings = parse_settings(RewardSettings, "python -m services.reward")
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from trueline.access import is_loopback
from trueline.tls_files import TlsFiles
from trueline.tokens import TokenFile

MIB = 1024 * 1024
# Given as the default of a setting that has none.
REQUIRED: Any = object()


Parser = Callable[[str], Any]


def setting(
    default: Any,
    help: str,
    *,
    parse: Parser = str,
    flag: str | None = None,
    repeated: bool = False,
) -> Any:
    """One setting; `parse` raises ValueError with a sentence, a bool default makes a switch."""
    metadata = {"help": help, "parse": parse, "flag": flag, "repeated": repeated}
    if default is REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def above(limit: float, kind: Callable[[str], Any] = int) -> Parser:
    """A parser of numbers above `limit`: above(0)("4") is 4; above(0)("-1") raises ValueError."""

    def parse(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"must be a number, not {text!r}") from None
        if not (number > limit and math.isfinite(number)):
            raise ValueError(f"must be a finite number above {limit}, not {text}")
        return number

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """A parser of words: one_of("json", "text")("yaml") raises ValueError."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {text!r}")
        return text

    return parse


def host_and_port(text: str) -> str:
    """A parser of host:port: "127.0.0.1:0" and "[::]:50051" pass, "localhost" does not."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise ValueError(f"must be host:port with a port from 0 to 65535, not {text!r}")
    return text


def directory(text: str) -> Path:
    """A parser of directories that exist."""
    path = Path(text)
    if not path.is_dir():
        raise ValueError(f"must be a directory, and there is none at {text!r}")
    return path


@dataclass(frozen=True, kw_only=True)
class EdgeSettings:
    """Who may call, and what callers may name. Off is for loopback; elsewhere it takes --insecure-network."""

    tls_certificate: Path | None = setting(
        None, "PEM file of the server's certificate and chain; read again when it changes.", parse=Path
    )
    tls_key: Path | None = setting(None, "PEM file of the certificate's key.", parse=Path)
    tls_client_ca: Path | None = setting(
        None, "PEM file of roots; callers must then show a certificate of theirs (mTLS).", parse=Path
    )
    tokens: Path | None = setting(
        None,
        "File of hashed bearer tokens (python -m services.tokens new); read again when it changes.",
        parse=Path,
    )
    insecure_network: bool = setting(
        False, "Listen beyond loopback without TLS and tokens: whoever reaches the port may do everything."
    )
    health_address: str = setting(
        "",
        "Where grpc.health.v1 alone is served, in plaintext, for probes that speak no TLS (kubelet's).",
        parse=host_and_port,
    )
    artifact_root: Path | None = setting(
        None,
        "Directory that the paths and URIs of callers must stay in, links included; hub names are refused.",
        parse=Path,
    )
    hub_names: bool = setting(False, "With --artifact-root, let callers name models of the hub too.")

    def edge_faults(self, *addresses: tuple[str, str]) -> list[str]:
        """What of TLS and tokens does not fit together, or is missing for these (flag, address) pairs."""
        found = []
        if (self.tls_certificate is None) != (self.tls_key is None):
            found.append("--tls-certificate, --tls-key: give both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            found.append("--tls-client-ca: needs --tls-certificate and --tls-key")
        if not found:
            found += self._file_faults()
        lacking = [
            flag
            for flag, given in (("--tls-certificate", self.tls_certificate), ("--tokens", self.tokens))
            if given is None
        ]
        for flag, address in addresses:
            if lacking and not self.insecure_network and not is_loopback(address):
                found.append(
                    f"{flag}: {address} is open to the network, and calls would be neither encrypted nor "
                    f"authorised: give {' and '.join(lacking)}, bind to 127.0.0.1, or say --insecure-network"
                )
        return found

    def _file_faults(self) -> Iterator[str]:
        try:
            self.tls_files()
        except ValueError as error:
            yield f"--tls-certificate: {error}"
        try:
            self.token_file()
        except (OSError, ValueError) as error:
            yield f"--tokens: {error}"
        if self.artifact_root is not None and not self.artifact_root.is_dir():
            yield f"--artifact-root: must be a directory, and there is none at {self.artifact_root}"

    def tls_files(self) -> TlsFiles | None:
        """The certificate's files; None without TLS. ValueError where they do not fit together."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    def token_file(self) -> TokenFile | None:
        """The tokens; None where everybody may call. ValueError or OSError where the file cannot be read."""
        return None if self.tokens is None else TokenFile(self.tokens)


@dataclass(frozen=True, kw_only=True)
class ServerSettings(EdgeSettings):
    """What every service process is told."""

    address: str = setting("127.0.0.1:0", "Where gRPC listens; port 0 takes a free one.", parse=host_and_port)
    metrics_address: str = setting(
        "127.0.0.1:0", "Where GET /metrics listens; port 0 takes a free one.", parse=host_and_port
    )
    threads: int = setting(1, "Threads of one model computation.", parse=above(0))
    ready_file: Path | None = setting(
        None, "File that gets {address, metrics_address, pid} as JSON once the ports are bound.", parse=Path
    )
    until_stdin_closes: bool = setting(
        False, "End when standard input closes, which it does when the process that holds its other end dies."
    )
    log_format: str = setting(
        "auto", "json, text, or auto: text on a terminal.", parse=one_of("auto", "json", "text")
    )
    reflection: bool = setting(False, "Serve gRPC reflection, so that grpcurl needs no protos.")
    max_message_bytes: int = setting(64 * MIB, "Bytes of one message at most, both ways.", parse=above(0))
    max_waiting: int = setting(
        64, "Calls that may wait for model work; one more is RESOURCE_EXHAUSTED.", parse=above(0)
    )
    grace: float = setting(
        25.0, "Seconds that running calls may take to end after SIGTERM.", parse=above(0, float)
    )
    max_connection_age: float = setting(
        1800.0,
        "Seconds after which clients are asked to connect anew, and so find new replicas.",
        parse=above(0, float),
    )
    max_connection_age_grace: float = setting(
        3600.0,
        "Seconds that calls on such an old connection may go on; above the longest call.",
        parse=above(0, float),
    )

    @property
    def work_threads(self) -> int:
        """Pieces of model work that run at once: one, since a model has one set of weights to work on."""
        return 1

    def faults(self) -> list[str]:
        """What is wrong between settings, one sentence each; a subclass adds its own."""
        return self.edge_faults(("--address", self.address), ("--metrics-address", self.metrics_address))


Settings = TypeVar("Settings", bound=ServerSettings)


def parse_settings(kind: type[Settings], program: str, arguments: Sequence[str] | None = None) -> Settings:
    """Settings from flags. Prints every fault and exits with 2 when there are any; --help exits with 0."""
    parser = _Parser(prog=program, description=(kind.__doc__ or "").strip(), allow_abbrev=False)
    for field in dataclasses.fields(kind):
        _add_flag(parser, field)
    given, unknown = parser.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    faults = [f"{argument}: no such flag" for argument in unknown]
    values = {}
    for field in dataclasses.fields(kind):
        try:
            values.update(_value(field, getattr(given, field.name)))
        except ValueError as error:
            faults.append(f"{_flag(field)}: {error}")
    if not faults:
        settings = kind(**values)
        faults = settings.faults()
    if faults:
        _exit_with(program, faults)
    return settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _exit_with(self.prog, [message])


def _exit_with(program: str, faults: list[str]) -> NoReturn:
    lines = [f"{program}: {len(faults)} setting(s) cannot be used:", *(f"  {fault}" for fault in faults)]
    print("\n".join(lines), file=sys.stderr)
    raise SystemExit(2)


def _flag(field: dataclasses.Field[Any]) -> str:
    return field.metadata["flag"] or "--" + field.name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    default, help = field.default, str(field.metadata["help"]).replace("%", "%%")
    if isinstance(default, bool):
        parser.add_argument(_flag(field), dest=field.name, action="store_true", default=None, help=help)
        return
    if default is dataclasses.MISSING:
        help += " (required)"
    elif default not in (None, ()):
        help += f" (default: {default})"
    # An absent value becomes "", so that it is one fault among the others rather than argparse's only one.
    action = "append" if field.metadata["repeated"] else "store"
    given: dict[str, Any] = {"action": action, "nargs": "?", "const": "", "metavar": "VALUE"}
    parser.add_argument(_flag(field), dest=field.name, help=help, **given)


def _value(field: dataclasses.Field[Any], given: Any) -> dict[str, Any]:
    """{name: parsed}, or {} where the default stands."""
    if given is None:
        if field.default is dataclasses.MISSING:
            raise ValueError("is required")
        return {}
    if isinstance(given, bool):
        return {field.name: given}
    if field.metadata["repeated"]:
        return {field.name: tuple(_parsed(field, text) for text in given)}
    return {field.name: _parsed(field, given)}


def _parsed(field: dataclasses.Field[Any], text: str) -> Any:
    if text == "":
        raise ValueError("needs a value")
    return field.metadata["parse"](text)
