"""python -m services.tokens new --name trainer-x --scopes score,read --days 90 [--file FILE]

new      makes a token: prints it once, and its hashed line for the file that servers are given by --tokens;
         with --file the line is added there, and the servers that read it know the token at once
list     names, scopes and ends of a file's tokens; 1 where one has ended or the file is faulty
remove   takes a token out of a file by its name
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from services.durable_files import fsync
from trueline.tokens import FOREVER, SCOPES, TIME_FORMAT, new_token, read_tokens

HEADER = "# name  scopes  ends  hash\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 done, 1 a token has ended, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (OSError, ValueError) as error:
        print(f"python -m services.tokens: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.tokens", description="Bearer tokens of callers."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="makes a token and prints it once")
    new.add_argument(
        "--name", required=True, help="who bears it; the one thing of a token that is ever logged"
    )
    new.add_argument("--scopes", required=True, help=f"some of {','.join(SCOPES)}, with commas between")
    ends = new.add_mutually_exclusive_group(required=True)
    ends.add_argument("--days", type=float, help="days until it ends")
    ends.add_argument("--forever", action="store_true", help="it never ends")
    new.add_argument("--file", type=Path, help="add the line here, instead of printing it")
    new.set_defaults(command=_new)
    listed = commands.add_parser("list", help="who bears a token, for what and until when")
    listed.add_argument("file", type=Path)
    listed.set_defaults(command=_list)
    remove = commands.add_parser("remove", help="takes a token out")
    remove.add_argument("--name", required=True)
    remove.add_argument("file", type=Path)
    remove.set_defaults(command=_remove)
    return parser


def _new(options: argparse.Namespace) -> int:
    if options.days is not None and not 0 < options.days < 36525:
        raise ValueError(f"--days: must be above 0 and below 36525, is {options.days:g}")
    ends = None if options.forever else datetime.now(timezone.utc) + timedelta(days=options.days)
    secret, token = new_token(options.name, options.scopes.split(","), ends)
    if options.file is not None:
        before = options.file.read_text(encoding="utf-8") if options.file.exists() else HEADER
        if any(
            each.name == token.name for each in (read_tokens(options.file) if options.file.exists() else [])
        ):
            raise ValueError(f"--name: {token.name} is in {options.file} already")
        _write(options.file, before.rstrip("\n") + f"\n{token.line}\n")
        print(f"{token.name} added to {options.file}; the token, shown this once:", file=sys.stderr)
        print(secret)
    else:
        print(f"token, shown this once:  {secret}\nline for the file:       {token.line}")
    return 0


def _list(options: argparse.Namespace) -> int:
    ended = False
    for token in read_tokens(options.file):
        over = token.ends is not None and token.ends <= datetime.now(timezone.utc)
        ended = ended or over
        ends = FOREVER if token.ends is None else token.ends.strftime(TIME_FORMAT)
        print(f"{token.name}  {','.join(sorted(token.scopes))}  {ends}{'  (ended)' if over else ''}")
    return 1 if ended else 0


def _remove(options: argparse.Namespace) -> int:
    lines = options.file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split()[:1] != [options.name]]
    if kept == lines:
        raise ValueError(f"--name: there is no {options.name} in {options.file}")
    _write(options.file, "".join(kept))
    return 0


def _write(file: Path, text: str) -> None:
    """Whole or not at all: servers read it at any moment. A new file is for its owner's eyes.

    A file that was there keeps its mode and owner, or a server under another user could not read what it
    has to refuse from now on; ValueError, with nothing changed, where they cannot be kept.
    """
    file = file.resolve()  # a link stays a link
    beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    beside.touch(mode=0o600)
    try:
        beside.write_text(text, encoding="utf-8")
        if file.exists():
            _take_after(file, beside)
        fsync(beside)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _take_after(file: Path, beside: Path) -> None:
    before = file.stat()
    try:
        os.chown(beside, before.st_uid, before.st_gid)
        beside.chmod(stat.S_IMODE(before.st_mode))
    except OSError as error:
        owner = f"{before.st_uid}:{before.st_gid}"
        raise ValueError(
            f"{file} is unchanged: owner {owner} cannot be kept ({error}); run this as that user or root"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
