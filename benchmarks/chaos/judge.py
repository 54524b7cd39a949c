"""Holds a run under faults against the same run left alone: nothing lost, nothing twice, nothing else."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chaos.driver import NAME, Driver
from orchestrator.drive import open_run
from orchestrator.launcher import REPOSITORY
from orchestrator.ledger import Ledger
from orchestrator.payloads import Payload, PayloadError, read_payload
from orchestrator.schema import phases
from tests.faults.plan import KINDS, FaultPlan
from trueline.v1 import trainer_pb2

GRACE_SECONDS = 1.0  # beyond a deadline, within which a call must have ended
VERIFY_SECONDS = 600
# A kind must have fired this often in a full run, and each process have died this often.
LEAST_OF_KIND, LEAST_DEATHS, LEAST_FAULTS = 20, 10, 500
PROCESSES = ("orchestrator", "policy", "reference", "reward", "trainer")

Phases = dict[tuple[str, int, str], dict[str, Any]]


def ledger_of(driver: Driver) -> Ledger:
    """The ledger of a driver's run."""
    return open_run(driver.runs / NAME, driver.ledger)


def all_phases(ledger: Ledger) -> Phases:
    """Every phase's output, by stage, round and phase."""
    with ledger.database.engine.connect() as connection:
        rows = connection.execute(phases.select().where(phases.c.run == ledger.run)).mappings().all()
    return {(row["stage"], row["round"], row["phase"]): dict(row["output"]) for row in rows}


def compare(unbroken: Driver, broken: Driver) -> dict[str, Any]:
    """What differs between two runs of one seed; where all is well, nothing."""
    ours, theirs = ledger_of(broken), ledger_of(unbroken)
    done, expected = all_phases(ours), all_phases(theirs)
    return {
        "weights_identical": final_weights(ours) == final_weights(theirs),
        "phases_missing": sorted(f"{s} {n} {p}" for s, n, p in expected.keys() - done.keys()),
        "phases_extra": sorted(f"{s} {n} {p}" for s, n, p in done.keys() - expected.keys()),
        "rollouts_different": different(
            done, expected, lambda name: name.startswith(("chunk", "gold-")), "sha256"
        ),
        "batches_different": different(done, expected, lambda name: name == "scored", "sha256"),
        "steps_different": different(done, expected, lambda name: name == "trained", "weights_sha256"),
        "versions_different": different(done, expected, lambda name: name == "published", "sha256"),
        **recount(ours, done),
    }


def different(done: Phases, expected: Phases, named: Any, field: str) -> list[str]:
    """The phases of these names whose digest is another."""
    return sorted(
        f"{key[0]} {key[1]} {key[2]}"
        for key in done.keys() & expected.keys()
        if named(key[2]) and done[key][field] != expected[key][field]
    )


def final_weights(ledger: Ledger) -> bytes:
    """The bytes of the last policy."""
    row = ledger.latest_version("policy")
    return b"" if row is None else (Path(row["uri"]) / "model.safetensors").read_bytes()


def recount(ledger: Ledger, done: Phases) -> dict[str, Any]:
    """Counts the PPO stage's prompts and rollouts from its files: cursor, chunks, batches, steps."""
    faults: list[str] = []
    trained: Counter[tuple[str, int]] = Counter()
    end = 0
    for row in ledger.all_rounds("ppo"):
        if row.cursor_start != end or row.status != "committed":
            faults.append(f"round {row.number}: {row.status}, cursor {row.cursor_start}, expected {end}")
        end = row.cursor_end
        sampled = sorted(
            each for name in done if is_chunk(name, row.number) for each in keys_in(done[name], faults)
        )
        batch = sorted(keys_in(done.get(("ppo", row.number, "scored"), {}), faults))
        if sampled != batch or len(set(batch)) != row.cursor_end - row.cursor_start:
            faults.append(
                f"round {row.number}: {len(sampled)} sampled, {len(batch)} in the batch that trained"
            )
        trained.update(batch)
        step = done.get(("ppo", row.number, "trained"), {}).get("step")
        if step != row.number:
            faults.append(f"round {row.number}: trained as step {step}")
    return {
        "rollouts_trained": sum(trained.values()),
        "trained_twice": sum(1 for count in trained.values() if count > 1),
        "recount_faults": faults,
    }


def is_chunk(name: tuple[str, int, str], number: int) -> bool:
    """True of the chunks of a PPO round's own rollouts."""
    return name[:2] == ("ppo", number) and name[2].startswith("chunk-")


def keys_in(output: dict[str, Any], faults: list[str]) -> list[tuple[str, int]]:
    """The (prompt, sample) of each rollout in a payload."""
    try:
        batch = read_payload(Payload(**output), trainer_pb2.PpoBatch) if output else trainer_pb2.PpoBatch()
    except PayloadError as error:
        faults.append(str(error))
        return []
    return [(each.prompt_id, each.sample_index) for each in batch.rollouts]


def verified(driver: Driver) -> dict[str, Any]:
    """What `python -m orchestrator verify` says; `clean` is its exit code of 0."""
    done = subprocess.run(
        driver.command("verify", NAME, "--json"), cwd=REPOSITORY, capture_output=True, text=True,
        timeout=VERIFY_SECONDS, check=False,
    )  # fmt: skip
    said = (done.stdout or done.stderr).strip()
    return {"clean": done.returncode == 0, "said": "" if done.returncode == 0 else said[-2000:]}


def calls_in(plan: FaultPlan) -> dict[str, Any]:
    """Calls by how they ended, and those that lasted beyond their limit."""
    calls = plan.calls()
    late = [each for each in calls if each["seconds"] > each["of"] + GRACE_SECONDS]
    at_limit = [each["seconds"] - each["of"] for each in calls if each["seconds"] >= each["of"]]
    return {
        "calls": len(calls),
        "by_code": dict(Counter(each["code"] for each in calls)),
        "limits_reached": len(at_limit),
        "worst_beyond_limit_seconds": round(max(at_limit, default=0.0), 3),
        "beyond_limit_and_grace": late,
    }


def faults_in(plan: FaultPlan) -> dict[str, Any]:
    """Faults planned and fired: by kind, by point, and by the process that died."""
    fired, pending = plan.all_fired(), plan.all_pending()
    died = Counter(
        "orchestrator" if each.fault.side == "caller" else each.fault.service
        for each in fired
        if each.fault.kind == "die"
    )
    by_kind = Counter(each.fault.kind for each in fired)
    return {
        "planned": len(fired) + len(pending),
        "fired": len(fired),
        "not_fired": [f"{each.kind} {each.point} due in round {each.round}" for each in pending],
        "by_kind": {kind: by_kind[kind] for kind in KINDS},
        "by_point": dict(sorted(Counter(f"{each.fault.kind}: {each.fault.point}" for each in fired).items())),
        "deaths": {name: died[name] for name in PROCESSES},
        "reorders_that_swapped": sum(bool(each.record.get("swapped")) for each in fired),
        "repeats": dict(Counter(each.record["repeat"] for each in fired if "repeat" in each.record)),
        "repeats_answered_otherwise": [
            each.fault.point
            for each in fired
            if each.record.get("equal") is False and each.record["repeat"] == "OK"
        ],
    }


def shortfalls(report: dict[str, Any], full: bool) -> list[str]:
    """Every sentence that keeps the run from passing; none where it passes."""
    run, same, faults, calls = (report[name] for name in ("run", "same", "faults", "calls"))
    found = [] if run["finished"] else ["the run did not finish"]
    found += [f"stalled: {each}" for each in run["stalls"]]
    found += [] if same["weights_identical"] else ["the final weights differ from the unbroken run's"]
    found += [
        f"{name}: {len(rows)}, such as {rows[0]}"
        for name, rows in same.items()
        if rows and isinstance(rows, list)
    ]
    found += [f"{same['trained_twice']} rollouts trained twice"] if same["trained_twice"] else []
    found += [f"{len(faults['not_fired'])} faults did not fire"] if faults["not_fired"] else []
    found += [f"{len(calls['beyond_limit_and_grace'])} calls beyond limit + {GRACE_SECONDS:g} s"] * bool(
        calls["beyond_limit_and_grace"]
    )
    found += [f"a repeat got another answer: {each}" for each in faults["repeats_answered_otherwise"]]
    found += [] if report["verify"]["clean"] else [f"verify: {report['verify']['said']}"]
    if full:
        found += [f"{kind} fired {n} times" for kind, n in faults["by_kind"].items() if n < LEAST_OF_KIND]
        found += [f"{name} died {n} times" for name, n in faults["deaths"].items() if n < LEAST_DEATHS]
        found += [] if faults["reorders_that_swapped"] else ["no reorder swapped two calls"]
        found += [f"{faults['fired']} faults in all"] if faults["fired"] < LEAST_FAULTS else []
    return found


def as_json(report: dict[str, Any]) -> str:
    """The report, for a person and for a program."""
    return json.dumps(report, indent=2)
