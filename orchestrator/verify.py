"""Recounts a run from its ledger and its files: python -m orchestrator verify RUN.

    verdict = verify(ledger, directory)
    verdict.findings     [Finding("rollout_lost", "ppo 12 scored", "prompt p7 sample 0 is not ...", "once")]
    verdict.figures      {"rounds": 40, "lengths": {"ppo": {"sampled": {...}, "trained": {...}, ...}}}

It reads rows as of one moment and writes nothing, so that a run under way may be verified too. Files may go
from under it there: a finding counts when it is found again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data import DataError, content_sha256
from orchestrator.ledger import Ledger
from orchestrator.payloads import message_sha256
from orchestrator.recipe import Recipe, RecipeError, declared_recipe, load_recipe
from orchestrator.recipe_rounds import DpoStage, PpoStage, PreferenceStage
from orchestrator.recipe_settings import HUB
from orchestrator.recipe_stages import PretrainStage, RewardStage, SftStage
from orchestrator.refreshes import all_stages, collected_for
from orchestrator.seeds import derive
from orchestrator.sources import supervised_rows
from orchestrator.stages.preference import preference_batch, preference_steps
from orchestrator.stages.refresh import learned_from
from orchestrator.stages.reward import comparison_batch, reward_steps
from orchestrator.stages.supervised import sft_batch, steps_of
from orchestrator.verify_files import check_checkpoints, check_payloads, check_versions
from orchestrator.verify_findings import Finding, Row, Rows
from orchestrator.verify_pairs import PairCount
from orchestrator.verify_rollouts import RolloutCount, RoundCount
from orchestrator.verify_rows import check_rows, place, version_chain


@dataclass(frozen=True)
class Verdict:
    """What a recount found."""

    findings: list[Finding]
    figures: dict[str, Any]


RECOUNTS = 3  # of a run that changes while it is counted


def verify(ledger: Ledger, directory: Path) -> Verdict:
    """Every check there is. LedgerError where the run is not in the ledger."""
    ledger.info()
    tables = ledger.all_rows()
    verdict = recount(tables, directory)
    for _ in range(RECOUNTS - 1):
        again = ledger.all_rows()
        if not verdict.findings or again == tables:
            break
        tables, before = again, set(verdict.findings)
        verdict = recount(tables, directory)
        verdict = Verdict([each for each in verdict.findings if each in before], verdict.figures)
    return verdict


def recount(tables: dict[str, list[Row]], directory: Path) -> Verdict:
    """Every check, on rows as of one moment."""
    rows = Rows(tables)
    recipe = declared_recipe(rows.run["recipe"], directory)
    parents: dict[tuple[str, int], Row | None] = {}
    findings = [
        *check_recipe(rows, directory),
        *check_rows(rows, recipe),
        *check_payloads(rows),
        *check_versions(rows, parents),
        *version_chain(rows, parents),
        *check_checkpoints(rows),
    ]
    changed = list(check_data(rows))
    findings += changed
    lengths: dict[str, Any] = {}
    if not changed:  # without its data nobody can say what a run should have trained on
        findings += check_batches(rows, recipe, directory)
        for count in rollout_counts(rows, recipe, directory):
            findings += count.check()
            lengths[count.stage] = count.figures()
    return Verdict(findings, {**figures(rows), "lengths": lengths})


def check_recipe(rows: Rows, directory: Path) -> Iterator[Finding]:
    """The recipe beside the run is the one that it began with."""
    path = directory / "recipe.yaml"
    try:
        digest = load_recipe(path, run_dir=directory).sha256
    except RecipeError as error:
        digest = str(error)
    if digest != rows.run["recipe_sha256"]:
        yield Finding("recipe_changed", str(path), digest, rows.run["recipe_sha256"])


def check_data(rows: Rows) -> Iterator[Finding]:
    """Data files and model directories are those that the run began with; commits of the hub stay what they
    are."""
    for path, sha256 in rows.run["data_sha256"].items():
        if path.startswith(HUB):
            continue
        try:
            digest = content_sha256(Path(path))
        except (OSError, DataError) as error:
            digest = str(error)
        if digest != sha256:
            yield Finding("data_changed", path, digest, sha256)


def check_batches(rows: Rows, recipe: Recipe, directory: Path) -> Iterator[Finding]:
    """Each step of an offline stage trained on its rows, and a finished stage on all of them."""
    planned = all_stages(recipe)
    for stage in rows.stages:
        name, settings = stage["stage"], planned.get(stage["stage"])
        if isinstance(settings, PretrainStage | SftStage):
            data = supervised_rows(directory, settings)
            steps = steps_of(data, settings.epochs, settings.rows_per_step, derive(recipe.seed, name))
            digests = (message_sha256(sft_batch(step)) for step in steps)
        elif isinstance(settings, RewardStage | PreferenceStage):
            collected = rows.collection(settings.comparisons)
            if isinstance(settings, RewardStage):
                if fresh := collected_for(recipe, name):
                    settings, collected = learned_from([rows.collection(each) for each in fresh], settings)
                steps = reward_steps(recipe.seed, name, settings, collected)
                digests = (message_sha256(comparison_batch(step)) for step in steps)
            else:
                steps = preference_steps(recipe.seed, name, settings, collected)
                digests = (message_sha256(preference_batch(step)) for step in steps)
        else:
            continue
        for number, digest in enumerate(digests, start=1):
            row = rows.phase(name, number, "trained")
            if row is None:
                if stage["status"] == "finished":
                    yield Finding(
                        "phase_missing", f"{name} {number} trained", "no row", f"{len(steps)} steps"
                    )
            elif row["output"].get("batch_sha256", digest) != digest:
                found = f"batch {row['output']['batch_sha256']}"
                yield Finding("batch_changed", place(row), found, f"{digest}, from the data")


COUNTS: dict[type, type[RoundCount]] = {PpoStage: RolloutCount, DpoStage: PairCount}


def rollout_counts(rows: Rows, recipe: Recipe, directory: Path) -> Iterator[RoundCount]:
    """One count for each stage of rounds that has begun."""
    for stage in rows.stages:
        settings = recipe.stages.get(stage["stage"])
        if isinstance(settings, PpoStage | DpoStage):
            yield COUNTS[type(settings)](rows, recipe, stage["stage"], settings, directory)


def figures(rows: Rows) -> dict[str, Any]:
    """How much there was to verify."""
    rounds = [row for stage in rows.stages for row in rows.rounds(stage["stage"])]
    return {
        "run": rows.run["run"],
        "status": rows.run["status"],
        "epoch": rows.run["epoch"],
        "stages": len(rows.stages),
        "rounds": len(rounds),
        "rounds_rolled_back": sum(1 for row in rounds if row["status"] == "rolled_back"),
        "rounds_without_payloads": sum(1 for row in rounds if row["payloads_removed_at"] is not None),
        "phases": len(rows.phases),
        "versions": len(rows.versions),
        "checkpoints": len(rows.checkpoints),
        "comparisons": len(rows.comparisons),
    }
