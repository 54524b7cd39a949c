"""The `trueline` command: is a service healthy, which scorers are there, and scores for JSON lines.

Results are JSON, one object a line, on standard output; faults are a sentence on standard error. Exit
codes: 0 done; 1 the call failed, or the service is not serving; 2 wrong usage or input; 3 some items came
back without a score. TLS and the token come from flags or from TRUELINE_CA, TRUELINE_TOKEN_FILE, ...
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, TextIO

from trueline.access import Access
from trueline.client import RewardClient
from trueline.errors import CallError
from trueline.scoring import score_items
from trueline.v1 import reward_pb2
from trueline.version import __version__

DONE, FAILED, BAD_INPUT, ITEMS_WITHOUT_SCORE = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(asyncio.run(options.command(options)))
    except CallError as error:
        return _complain(str(error), FAILED)
    except ValueError as error:
        return _complain(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trueline", description="Asks Trueline's services from a shell.")
    parser.add_argument("--version", action="version", version=f"trueline {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    health = _command(commands, "health", _health, "what a service says of its health; exit 0 when SERVING")
    health.add_argument(
        "service",
        nargs="?",
        default="",
        help="full name such as trueline.v1.RewardService; default: the process",
    )

    _command(commands, "scorers", _scorers, "the scorers that a reward service hosts, one a line")

    score = _command(commands, "score", _score, "scores JSON lines from standard input")
    score.add_argument(
        "--scorer", default="", help="the scorer's name; may be left out where only one is hosted"
    )
    score.add_argument("--batch", type=_positive, default=64, metavar="N", help="items per call (default 64)")
    score.epilog = 'A line: {"prompt": "text" or [{"role": "user", "content": "..."}], "response": "text"}.'
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    command.set_defaults(command=run)
    command.add_argument("address", metavar="ADDRESS", help="host:port, or dns:///name:port")
    command.add_argument("--deadline", type=_seconds, default=None, metavar="S", help="seconds per call")
    files = {
        "ca": "PEM file of the roots to trust; calls go over TLS",
        "certificate": "PEM file of the client's own certificate, for servers that ask for one",
        "key": "PEM file of that certificate's key",
        # A token on the command line would be seen by every process of the machine.
        "token-file": "file that holds the token and nothing else",
    }
    for name, text in files.items():
        command.add_argument(f"--{name}", default=None, metavar="FILE", help=text)
    command.add_argument(
        "--server-name", default=None, metavar="NAME", help="name in the server's certificate"
    )
    return command


def _access(options: argparse.Namespace) -> Access:
    names = ("ca", "certificate", "key", "token_file", "server_name")
    return Access.from_environment(**{name: getattr(options, name) for name in names})


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0; got {text!r}")
    return seconds


async def _health(options: argparse.Namespace) -> int:
    async with RewardClient.direct(options.address, access=_access(options)) as client:
        status = await client.health(options.service, deadline=options.deadline or 5.0)
    _print({"address": options.address, "service": options.service, "status": status})
    return DONE if status == "SERVING" else FAILED


async def _scorers(options: argparse.Namespace) -> int:
    async with RewardClient(options.address, deadline=options.deadline, access=_access(options)) as reward:
        for scorer in (await reward.list_scorers()).scorers:
            _print(scorer_record(scorer))
    return DONE


async def _score(options: argparse.Namespace) -> int:
    code, lines = DONE, read_items(sys.stdin)
    async with RewardClient(options.address, deadline=options.deadline, access=_access(options)) as reward:
        while batch := list(islice(lines, options.batch)):
            reply = await reward.score(options.scorer, batch)
            for score in reply.scores:
                _print(score_record(score))
                if not score.HasField("value"):
                    code = ITEMS_WITHOUT_SCORE
    return code


def read_items(stream: TextIO) -> Iterator[reward_pb2.ScoreItem]:
    """An item per line; ValueError names the line that is not one.

    Blank lines are skipped, other keys ignored.
    """
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}: not JSON: {error}") from error
        missing = [key for key in ("prompt", "response") if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"line {number}: must be an object with {' and '.join(missing)}")
        try:
            yield score_items([(record["prompt"], record["response"])])[0]
        except ValueError as error:
            raise ValueError(f"line {number}: {str(error).removeprefix('items[0].')}") from error


def score_record(score: Any) -> dict[str, Any]:
    """One line of output.

    {"raw": 1.5, "normalised": 0.2, "truncated": false, "tokens": 31}
    {"error": {"reason": "too_long", "message": "..."}}
    """
    if not score.HasField("value"):
        return {"error": {"reason": score.error.reason, "message": score.error.message}}
    value = score.value
    return {
        "raw": value.raw,
        "normalised": value.normalised,
        "truncated": value.truncated,
        "tokens": value.tokens,
    }


def scorer_record(scorer: reward_pb2.Scorer) -> dict[str, Any]:
    """One line of output.

    {"name": "gold", "kind": "rule", "function": "worlds.helpdesk.gold:score"}
    {"name": "proxy", "kind": "learned", "version": "reward@2", "sha256": "9f86...", "context_length": 128}
    """
    kind = reward_pb2.ScorerKind.Name(scorer.kind).removeprefix("SCORER_KIND_").lower()
    record: dict[str, Any] = {"name": scorer.name, "kind": kind}
    if scorer.kind == reward_pb2.SCORER_KIND_RULE:
        return {**record, "function": scorer.function}
    version = scorer.version
    loaded = scorer.HasField("version")
    return {
        **record,
        "version": f"{version.model}@{version.number}" if loaded else None,
        "sha256": version.sha256 or None,
        "context_length": scorer.context_length,
    }


def _print(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _complain(sentence: str, code: int) -> int:
    print(f"trueline: {sentence}", file=sys.stderr)
    return code
