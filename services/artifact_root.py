"""Where the paths that callers name may lead: below one directory, or anywhere where none is set.

    artifact_root.set(ArtifactRoot(Path("/artifacts")))       for the call that runs; the door does it
    resolve("/artifacts/models/policy/v000001", "uri", ...)   its real path
    resolve("/artifacts/../etc/passwd", "uri", ...)           FieldError, reason "outside_root"
    resolve("hf://gpt2", "uri", ...)                          the same, unless hub names are allowed

Paths that an operator gave by flag are not a caller's, and are not asked about.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from services.errors import FieldError
from services.weights import HUB, WeightsError, path_of


class OutsideRoot(WeightsError):
    """The path leads out of the artifact root."""


@dataclass(frozen=True)
class ArtifactRoot:
    """The directory that paths stay in; None for no limit. With one, hub names are refused unless allowed."""

    directory: Path | None = None
    hub_names: bool = False

    def resolve(self, uri: str) -> Path:
        """The path that a URI names, links followed where there is a root. WeightsError, or OutsideRoot."""
        path = path_of(uri)
        if self.directory is None:
            return path
        if path.parts[:1] == (HUB,):
            if not self.hub_names:
                raise OutsideRoot(uri, "hub names are not allowed here (--artifact-root without --hub-names)")
            return path
        real = self._inside(uri, path)
        if real.is_dir():
            self._check_links(uri, real)
        return real

    def _inside(self, uri: str, path: Path) -> Path:
        root, real = os.path.realpath(str(self.directory)), os.path.realpath(path)
        if os.path.commonpath([root, real]) != root:
            raise OutsideRoot(uri, f"leads out of the artifact root {self.directory}")
        return Path(real)

    def _check_links(self, uri: str, directory: Path) -> None:
        """A file of the directory may itself be a link to somewhere else."""
        for folder, folders, files in os.walk(directory):
            for entry in (Path(folder, name) for name in (*folders, *files)):
                if entry.is_symlink():
                    self._inside(uri, entry)


ANYWHERE = ArtifactRoot()
artifact_root: ContextVar[ArtifactRoot] = ContextVar("artifact_root", default=ANYWHERE)


def resolve(uri: str, field: str, limit: str) -> Path:
    """The path that a caller's URI names, within the root of the call that runs.

    FieldError says `limit` of what is no path at all, and "outside_root" of one that leads out.
    """
    try:
        return artifact_root.get().resolve(uri)
    except OutsideRoot as error:
        raise FieldError(field, uri, error.what, "outside_root") from None
    except WeightsError:
        raise FieldError(field, uri, limit) from None
