"""python -m benchmarks.cluster [--quick]: the demo as the cluster of k8s/tests/secured, with deaths.

Every pod is a process in a network namespace of its own, with the command, flags, variables, Secrets, names
and ports of the manifests: two policy replicas, two orchestrators that elect one, PostgreSQL, TLS and tokens;
the API server is the tests' emulator and enforces the Role. In the middle of PPO the leader is killed with
kill -9, then a policy replica; one joins. The run has to finish, and `verify` to find nothing wrong.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import network
from benchmarks.cluster.simulation import Cluster, Failed, simulated
from orchestrator.verify import verify
from tests.k8s.manifests import missing_kubectl
from tests.postgresql_server import binary

# The slow tests' size: a few minutes on two cores. Without it, the demo.
QUICK = (
    "stages.pretrain.epochs=1", "stages.pretrain.rows_per_step=64", "stages.pretrain.minibatch_size=32",
    "stages.sft.epochs=1", "stages.sft.rows_per_step=64", "stages.sft.minibatch_size=32",
    "stages.collect.prompt_limit=32", "stages.reward.rows_per_step=16", "stages.reward.minibatch_size=8",
    "stages.reward.normalisation.samples=16", "stages.ppo.rounds=24", "stages.ppo.prompts_per_round=16",
    "stages.ppo.prompts_per_chunk=8", "stages.ppo.gold_every=4", "stages.ppo.gold_limit=8",
    "stages.ppo.checkpoint_every=2", "stages.evaluate.prompt_limit=16",
    # So small a world drifts far, and no round may be rolled back for that.
    "stages.ppo.algorithm.kl_budget_soft=0.0", "stages.ppo.algorithm.kl_budget_hard=0.0",
)  # fmt: skip
QUICK_WORLD = ("--logs=256", "--demonstrations=256", "--prompts=40", "--heldout=64")
SECONDS, QUICK_SECONDS = 3000.0, 1200.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the simulation; 0 where the run finished and nothing is wrong, 77 where it cannot be run here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small world and 24 rounds")
    parser.add_argument("--seconds", type=float, help="gives up after so long")
    options = parser.parse_args(arguments)
    if why := missing():
        print(f"skipped: {why}")
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of all that has to be taken away
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    with tempfile.TemporaryDirectory(prefix="trueline-cluster-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # PostgreSQL runs as another user
        words = [word for override in QUICK for word in ("--set", override)] if options.quick else []
        try:
            prefix = f"tl{os.getpid()}"
            with simulated(Path(directory), prefix, words, seconds) as cluster:
                prepare(cluster, QUICK_WORLD if options.quick else ())
                figures = {**act(cluster), "namespaces": prefix}
        except Failed as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    print(json.dumps(figures, indent=2))
    return 1 if figures["findings"] else 0


def missing() -> str:
    """Why the simulation cannot be run here, or ""."""
    if (why := missing_kubectl()) or (why := network.missing()):
        return why
    absent = [name for name in ("initdb", "postgres") if binary(name) is None]
    return f"PostgreSQL's {' and '.join(absent)} not found: install its server" if absent else ""


def prepare(cluster: Cluster, sizes: tuple[str, ...]) -> None:
    """The Job's work, as its manifest has it."""
    pod = cluster.kubelet.start("prepare", "prepare", list(sizes))
    cluster.wait(lambda: pod.process.poll() is not None, "the world to be prepared", still=False)
    code = pod.process.returncode
    said = pod.log.read_text(errors="replace")
    cluster.kubelet.remove("prepare")
    if code:
        raise Failed(f"prepare ended with {code}\n{said}")


def act(cluster: Cluster) -> dict[str, Any]:
    """The story; what was measured in it."""
    cluster.start()
    cluster.wait_for_round(2)
    began = time.monotonic()
    takeover = cluster.kill_leader()
    cluster.wait_for_round(4)
    cluster.kill("policy-1")
    cluster.wait_for_round(6)
    cluster.join("policy-2", "policy", 2)
    cluster.wait(cluster.finished, "the run's end")
    cluster.tell("the run is finished")
    verdict = verify(cluster.ledger, cluster.directory)
    codes = cluster.kubelet.stop_all()
    rows = cluster.ledger.all_rows()
    return {
        "takeover_seconds": round(takeover, 1),
        "seconds_after_the_first_death": round(time.monotonic() - began, 1),
        "epochs": cluster.ledger.info()["epoch"],
        "rounds": sorted(  # PostgreSQL gives rows in no order
            row["round"] for row in rows["rounds"] if row["stage"] == "ppo" and row["status"] == "committed"
        ),
        "events": len(cluster.api.of("events")),
        "exit_codes": codes,
        "findings": [str(finding) for finding in verdict.findings],
        "timeline": [f"{second:.1f} s {text}" for second, text in cluster.timeline],
    }


if __name__ == "__main__":
    sys.exit(main())
