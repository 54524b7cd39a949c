"""The words of `python -m orchestrator evaluate`."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.evaluation.question import SERVICES

ABOUT = """\
Compares two models on held-out prompts: win rates with and without the advantage of length, scores, lengths,
diversity, and on request probes and best of n. With RUN, its versions can be named (policy@12, or policy for
the newest), and what is not said is taken from its evaluate stage; without, --before, --after and --prompts
are needed.
The same words again go on where the evaluation stood, or show what was found.
"""


def add_evaluate(commands: Any) -> argparse.ArgumentParser:
    """Adds the command to a parser's commands."""
    sub: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="compare two models on held-out prompts, as a report in HTML and JSON",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("run", nargs="?", help="a run whose models, prompts, scorers and services are taken")
    models = sub.add_argument_group("models: NAME or NAME@NUMBER of the run, a directory, hf://OWNER/NAME")
    models.add_argument("--before", metavar="MODEL", help="the model to compare with")
    models.add_argument("--after", metavar="MODEL", help="the model that was aligned")
    models.add_argument("--reference", metavar="MODEL", help="of the KL (else before); none measures none")
    _add_prompts(sub.add_argument_group("prompts and sampling"))
    _add_scoring(sub.add_argument_group("who decides"))
    _add_judge(sub.add_argument_group("the judge"))
    _add_measures(sub.add_argument_group("what else is measured"))
    services = sub.add_argument_group("running services (host:port, may be repeated); others start here")
    for name in SERVICES:
        services.add_argument(f"--{name}-address", action="append", default=[], metavar="ADDRESS")
    sub.add_argument("--name", help="what the evaluation is called; made from what is asked without it")
    sub.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    return sub


def _add_prompts(group: Any) -> None:
    group.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL of held-out prompts")
    group.add_argument("--prompt-limit", type=count, metavar="N", help="use the first N prompts")
    group.add_argument("--temperature", type=float, help="divides the logits")
    group.add_argument("--max-new-tokens", type=count, metavar="N", help="tokens of a response at most")
    group.add_argument(
        "--too-long",
        choices=("refuse", "truncate", "drop"),
        help="what becomes of a prompt that leaves no room for a response",
    )
    group.add_argument("--seed", type=int, help="every draw derives from it")


def _add_scoring(group: Any) -> None:
    group.add_argument("--gold", metavar="SCORER", help="what is really wanted, where something can tell")
    group.add_argument("--proxy", metavar="SCORER", help="the reward that trained; none leaves it out")
    group.add_argument(
        "--rule",
        action="append",
        default=[],
        dest="rules",
        metavar="NAME=MODULE:FUNCTION",
        help="a scorer that is a function of prompt and response; may be repeated",
    )
    group.add_argument(
        "--reward-model",
        action="append",
        default=[],
        dest="reward_models",
        metavar="NAME=MODEL",
        help="a scorer that is a reward model; may be repeated",
    )


def _add_judge(group: Any) -> None:
    group.add_argument("--judge", action="store_true", help="ask the run's judge, too")
    group.add_argument("--judge-model", metavar="MODEL", help="a causal model that judges")
    group.add_argument("--judge-endpoint", metavar="URL", help="an OpenAI-compatible endpoint that judges")
    group.add_argument("--judge-endpoint-model", metavar="NAME", help="what the endpoint calls its model")
    group.add_argument("--judge-key-env", metavar="VARIABLE", help="environment variable with its key")
    group.add_argument("--constitution", type=Path, metavar="FILE", help="what the judge goes by")
    group.add_argument(
        "--principle",
        action="append",
        default=[],
        dest="principles",
        metavar="NAME",
        help="only principles of this name; may be repeated",
    )
    group.add_argument(
        "--principle-choice",
        choices=("ensemble", "sampled"),
        default="ensemble",
        help="all principles decide a pair together (the default), or one drawn for each",
    )
    group.add_argument("--tie-band", type=float, default=0.0, help="a probability so near 0.5 is a tie")
    group.add_argument("--no-judge-scores", action="store_true", help="no scores by principle")
    group.add_argument("--probe-judge", action="store_true", help="have the answers to probes scored, too")


def _add_measures(group: Any) -> None:
    group.add_argument(
        "--probes",
        action="append",
        default=[],
        metavar="FILE",
        help="a set of probes: a JSONL file, the name of a shipped one, or all; may be repeated",
    )
    group.add_argument("--probe-tokens", type=count, metavar="N", help="tokens of an answer to a probe")
    group.add_argument(
        "--diversity-samples",
        type=count_or_none,
        default=4,
        metavar="N",
        help="answers to each of 64 prompts, from both models (default 4; 0 leaves it out)",
    )
    group.add_argument(
        "--best-of-n",
        type=count,
        metavar="N",
        help="gold and proxy of the best of 1, 2, 4, ... N answers of --before, with the fitted law",
    )
    group.add_argument("--best-of-n-prompts", type=count, metavar="N", help="prompts for it (default 64)")
    group.add_argument("--examples", type=count_or_none, default=8, metavar="N", help="answers to show")


def count(text: str) -> int:
    """A number of 1 or more."""
    value = count_or_none(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, is {text}")
    return value


def count_or_none(text: str) -> int:
    """A number of 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, is {text!r}")
    return int(text)
