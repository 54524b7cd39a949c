"""A run's report, computed from its ledger."""

from datetime import datetime, timezone
from typing import Any

from orchestrator.evaluation.overoptimisation import curve_of_rounds
from orchestrator.ledger import Ledger
from orchestrator.overoptimisation import Measured, peak_and_fall
from orchestrator.report_feedback import feedback_of
from orchestrator.statistics import share_interval

Report = dict[str, Any]


def summarise(ledger: Ledger) -> Report:
    """Everything that the report shows; a part whose stage has not run is absent.

    {"run": "helpdesk-ppo", "evaluation": {"gap_closed": 0.95, ...}, "reward_model": {...},
     "stages": [{"name": "sft", "kind": "sft", "seconds": 12.1, "steps": 6}, ...], "rounds": [...]}
    """
    info, stages = ledger.info(), ledger.all_stages()
    report: Report = {
        "run": info["run"],
        "seed": info["seed"],
        "recipe_sha256": info["recipe_sha256"],
        "status": info["status"],
        "notes": info["notes"],
        "settings": info["recipe"],
        "peak_memory_bytes": info["peak_memory_bytes"],
        "started_at": datetime.fromtimestamp(info["started_at"], timezone.utc).isoformat(timespec="seconds"),
        # Those within a stage are part of its seconds.
        "seconds_total": sum(each["seconds"] for each in stages if each["stage"] in info["recipe"]["stages"]),
        "stages": [stage_row(stage) for stage in stages],
        **constitution_parts(stages),
    }
    feedback = feedback_of(ledger)
    if feedback:
        report["feedback"] = feedback
    for stage in stages:
        if stage["kind"] in ("evaluate", "assess") and stage["result"]:
            report["evaluation"] = {k: v for k, v in stage["result"].items() if k != "overhead_fraction"}
        if stage["kind"] == "reward" and stage["result"]:
            report["reward_model"] = {"stage": stage["stage"], **reward_model(stage["result"])}
        if stage["kind"] == "preference" and stage["result"]:
            report["preference"] = preference(stage["result"])
    *earlier, newest = [each["stage"] for each in stages if each["kind"] in ("ppo", "dpo")] or [None]
    if newest is not None:
        report.update(policy_rounds(ledger, newest))
        curve = curve_of_rounds(report["rounds"])
        if curve is not None:
            report["over_optimisation"] = curve
    if earlier:
        told = f"rounds, throughput and curves are those of {newest}; not shown: {', '.join(earlier)}"
        report["notes"] = [*report["notes"], told]
    return report


def constitution_parts(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """What the stages that asked the judge came to, by their kind."""
    kinds = ("judge_check", "revise")
    found = {each["kind"]: each["result"] for each in stages if each["kind"] in kinds and each["result"]}
    return {kind: {k: v for k, v in found[kind].items() if k != "overhead_fraction"} for kind in found}


def model_card(ledger: Ledger, version: str) -> dict[str, Any]:
    """The facts that an exported model's card shows: its run, its recipe, and its newest evaluation."""
    report = summarise(ledger)
    facts = {name: report[name] for name in ("run", "seed", "recipe_sha256")}
    return {"version": version, **facts, "evaluation": report.get("evaluation")}


def stage_row(stage: dict[str, Any]) -> dict[str, Any]:
    """One line of the stage table."""
    result = stage["result"]
    return {
        "name": stage["stage"],
        "kind": stage["kind"],
        "status": stage["status"],
        "seconds": stage["seconds"],
        "steps": result.get("steps") or result.get("rounds"),
        "overhead_fraction": result.get("overhead_fraction"),
    }


def reward_model(result: dict[str, Any]) -> dict[str, Any]:
    """How good the reward model is: on held-out labels, and against the scorer without noise."""
    found = {"comparisons": result["comparisons"], "train_accuracy": result["metrics"].get("accuracy")}
    for name, measured in (("heldout_accuracy", result["held_out"]), ("gold_agreement", result["agreement"])):
        if "accuracy" in measured:
            pairs = int(measured["pairs"])
            found[name] = share_interval(round(measured["accuracy"] * pairs), pairs).as_dict("value")
    return found


def preference(result: dict[str, Any]) -> dict[str, Any]:
    """What offline learning from comparisons came to, and how it orders the held-out ones."""
    held_out, pairs = result["held_out"], int(result["held_out"].get("pairs", 0))
    found = {name: result[name] for name in ("loss", "comparisons", "metrics")}
    if "accuracy" in held_out:
        right = round(held_out["accuracy"] * pairs)
        found |= {"heldout_accuracy": share_interval(right, pairs).as_dict("value"), "held_out": held_out}
    return found


def policy_rounds(ledger: Ledger, stage: str) -> dict[str, Any]:
    """Rounds, throughput and rollbacks of a stage that goes in rounds."""
    rows = ledger.all_rounds(stage)
    # A round that was resumed knows the seconds since then only: it makes no rate.
    done = [row for row in rows if row.seconds and not row.metrics.get("resumed")]
    seconds = sum(row.seconds or 0.0 for row in done)
    found: dict[str, Any] = {
        "rounds": [
            {"round": row.number, "status": row.status, "seconds": row.seconds, **row.metrics} for row in rows
        ],
        "rollbacks": [
            {"round": number, **output} for number, output in ledger.all_phases(stage, "rolled_back").items()
        ],
    }
    measured = {
        number: Measured.of_phase(output)
        for number, output in ledger.all_phases(stage, "measured").items()
        if "proxy_scores" in output
    }
    compared = peak_and_fall(measured)
    if compared is not None:
        found["overoptimisation"] = compared.as_dict()
    if seconds:
        totals = {
            name: sum(row.metrics.get(name, 0.0) for row in done) for name in ("rollouts", "generated_tokens")
        }
        phases: dict[str, float] = {}
        for row in done:
            for phase, spent in row.metrics.get("phase_seconds", {}).items():
                phases[phase] = phases.get(phase, 0.0) + spent
        found["throughput"] = {
            "rollouts_per_second": totals["rollouts"] / seconds,
            "generated_tokens_per_second": totals["generated_tokens"] / seconds,
            "overhead_fraction": sum(row.metrics.get("overhead_seconds", 0.0) for row in done) / seconds,
            "phase_seconds": phases,
        }
    return found
