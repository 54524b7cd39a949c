"""Certificates for tests, made by the openssl binary."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def openssl(*words: str | Path) -> None:
    """Runs it, or skips where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def authority(folder: Path, name: str = "ca") -> Pair:
    """A root of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    openssl(*words, "-subj", f"/CN={name}", "-keyout", made.key, "-out", made.certificate)
    return made


def issue(root: Pair, name: str, *, san: str = "DNS:localhost,IP:127.0.0.1") -> Pair:
    """A certificate for a server of this machine, or for a client."""
    folder = root.certificate.parent
    made, request, names = Pair(folder / f"{name}.pem", folder / f"{name}.key"), folder / f"{name}.csr", None
    names = folder / f"{name}.ext"
    names.write_text(f"subjectAltName={san}\n")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    openssl(*new, "-keyout", made.key, "-out", request)
    sign: list[str | Path] = [
        "x509",
        "-req",
        "-in",
        request,
        "-CA",
        root.certificate,
        "-CAkey",
        root.key,
        "-CAcreateserial",
    ]
    openssl(*sign, "-days", "2", "-extfile", names, "-out", made.certificate)
    return made
