"""What a run's files must hold: every byte of payloads, versions and checkpoints is digested again."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.artifacts import place_of
from orchestrator.data import file_sha256, visible_files
from orchestrator.verify_findings import Finding, Row, Rows
from orchestrator.verify_rows import place

MANIFEST = "manifest.json"
POINTER = "COMMITTED"
PAYLOAD = {"path", "sha256", "bytes"}


def check_payloads(rows: Rows) -> Iterator[Finding]:
    """Every payload that a phase names, but for those of rounds whose payloads were removed."""
    removed = {
        (stage["stage"], row["round"])
        for stage in rows.stages
        for row in rows.rounds(stage["stage"])
        if row["payloads_removed_at"] is not None
    }
    for row in rows.phases:
        if row["output"].keys() >= PAYLOAD and (row["stage"], row["round"]) not in removed:
            yield from _payload_faults(row)


def _payload_faults(row: Row) -> Iterator[Finding]:
    path, where = Path(row["output"]["path"]), f"{place(row)} ({row['output']['path']})"
    try:
        digest = file_sha256(path)
    except OSError as error:
        yield Finding("payload_missing", where, str(error.strerror), f"{row['output']['bytes']} bytes")
        return
    if digest != row["output"]["sha256"]:
        yield Finding("payload_digest", where, f"SHA-256 {digest}", row["output"]["sha256"])


def check_versions(rows: Rows, parents: dict[tuple[str, int], Row | None]) -> Iterator[Finding]:
    """Every version's files against its manifest, and that against its row; fills in `parents` by version."""
    for row in rows.versions:
        name = (row["model"], row["number"])
        if row["removed_at"] is not None:
            parents[name] = row["parent"]
            continue
        manifest: dict[str, Any] = {}
        yield from _directory_faults("version", f"{name[0]}@{name[1]}", row, manifest)
        if manifest:
            parents[name] = manifest.get("parent")
    yield from _pointer_faults(rows)


def check_checkpoints(rows: Rows) -> Iterator[Finding]:
    """Every checkpoint's files against its manifest, and that against its row."""
    for row in rows.checkpoints:
        if row["removed_at"] is None:
            yield from _directory_faults("checkpoint", f"{row['stage']} step {row['step']}", row, {})


def _directory_faults(kind: str, name: str, row: Row, manifest: dict[str, Any]) -> Iterator[Finding]:
    """A directory with a manifest, as services write them; `manifest` is filled in where it is the row's."""
    directory = place_of(row)
    try:
        content = (directory / MANIFEST).read_bytes()
    except OSError as error:
        yield Finding(
            f"{kind}_missing", f"{name} ({directory / MANIFEST})", str(error.strerror), "a manifest"
        )
        return
    digest = hashlib.sha256(content).hexdigest()
    if digest != row["sha256"]:
        where = f"{name} ({directory / MANIFEST})"
        yield Finding(f"{kind}_digest", where, f"SHA-256 {digest}", f"{row['sha256']}, as its row says")
        return
    manifest.update(json.loads(content))
    listed = manifest["files"]
    present = set(visible_files(directory))
    for extra in sorted(present - listed.keys() - {MANIFEST}):
        yield Finding(
            f"{kind}_file", f"{name} ({directory / extra})", "a file", "none that the manifest lacks"
        )
    for file, stated in listed.items():
        where = f"{name} ({directory / file})"
        if file not in present:
            yield Finding(f"{kind}_missing", where, "no such file", f"{stated['bytes']} bytes")
        elif (found := file_sha256(directory / file)) != stated["sha256"]:
            yield Finding(f"{kind}_digest", where, f"SHA-256 {found}", stated["sha256"])


def _pointer_faults(rows: Rows) -> Iterator[Finding]:
    """The pointer names the newest version; in a run under way it may be one ahead of the ledger."""
    newest = {row["model"]: row for row in rows.versions}
    for model, row in newest.items():
        pointer = place_of(row).parent / POINTER
        where, expected = f"{model} ({pointer})", f"{model}@{row['number']} ({row['sha256'][:12]})"
        try:
            named = json.loads(pointer.read_bytes())
            number, sha256 = int(named["number"]), str(named["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Finding("pointer", where, f"cannot be read ({error})", expected)
            continue
        ahead = number > row["number"] and rows.run["status"] != "finished"
        if not ahead and (number, sha256) != (row["number"], row["sha256"]):
            yield Finding("pointer", where, f"{model}@{number} ({sha256[:12]})", expected)
