"""A run as a clean orchestrator writes it, without services: real payloads, versions and rows, in no time.

Supervised training in two steps, then PPO: 4 prompts a round of 6, two samples each, chunks of 2 prompts; a
checkpoint every second round. `RunWriter.write()` gives a run in which `verify` finds nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from orchestrator.accounts import account_of
from orchestrator.data import file_sha256, read_texts
from orchestrator.drive import new_run
from orchestrator.ledger import Ledger
from orchestrator.payloads import message_sha256, write_payload
from orchestrator.recipe import load_recipe
from orchestrator.seeds import derive, prompts_at
from orchestrator.stages.supervised import sft_batch, steps_of
from services.weights import ModelVersion, publish
from trueline.v1 import trainer_pb2, types_pb2

RATE = {"learning_rate": 0.001}
UNSCORED = ("p3", 0)  # the one rollout without a score, in the first round that has it
SAMPLES = 2


def recipe(directory: Path, rounds: int) -> dict[str, Any]:
    """The recipe, over data that it writes."""
    prompts = [{"prompt_id": f"p{i}", "text": f"prompt {i}"} for i in range(6)]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    texts = [{"text": f"text {i}"} for i in range(7)]
    (directory / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (directory / "start").mkdir(exist_ok=True)
    (directory / "start" / "config.json").write_text("{}")
    sft = dict(kind="sft", init="start", output="sft", data=str(directory / "texts.jsonl"), loss_on="all")
    sft |= dict(rows_per_step=4, minibatch_size=4, micro_batch_size=4, max_tokens=64, optimizer=RATE)
    ppo = dict(kind="ppo", policy="sft", reference="sft", scorer="rule", output="policy", rounds=rounds)
    ppo |= dict(prompts=str(directory / "prompts.jsonl"), prompts_per_round=4, samples_per_prompt=SAMPLES)
    ppo |= dict(prompts_per_chunk=2, sampling={"max_new_tokens": 8}, checkpoint_every=2)
    ppo |= dict(algorithm={"policy_optimizer": RATE, "critic_optimizer": RATE})
    export = dict(kind="export", model="policy", directory="{run}/export")
    rules = {"rule": "tests.reward.scripted_rules:count_words"}
    made = dict(name="written", seed=5, models={"start": str(directory / "start")})
    made |= dict(services={"reward": {"rules": rules}}, stages={"sft": sft, "ppo": ppo, "export": export})
    return made


class RunWriter:
    """Writes one run, round by round; a test may put its own hand between."""

    def __init__(self, directory: Path, rounds: int = 4, ledger_url: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "recipe.yaml"
        path.write_text(json.dumps(recipe(directory, rounds)))
        self.directory, self.rounds = directory / "run", rounds
        self.ledger: Ledger = new_run(path, self.directory, [], None, ledger_url)
        self.recipe = load_recipe(path, run_dir=self.directory)
        self.ledger.take_lease()
        data = [directory / name for name in ("prompts.jsonl", "texts.jsonl")]
        digests = {str(path): file_sha256(path) for path in data}
        self.ledger.set_run(data_sha256=digests, status="running")
        self.parent = ModelVersion("start", 0, "0" * 64)
        self.unscored = 0

    def write(self) -> "RunWriter":
        """The whole run."""
        self.supervised()
        self.ledger.begin_stage("ppo", "ppo", 2)
        for number in range(1, self.rounds + 1):
            self.round(number)
        self.ledger.finish_stage("ppo", {"rounds": self.rounds})
        self.ledger.set_run(status="finished")
        return self

    def supervised(self) -> None:
        """The supervised stage."""
        self.ledger.begin_stage("sft", "sft", 1)
        texts = read_texts(self.directory.parent / "texts.jsonl")
        steps = steps_of(texts, 1, 4, derive(self.recipe.seed, "sft"))
        for number, rows in enumerate(steps, start=1):
            self.ledger.begin_round("sft", number, 0)
            self.trained("sft", number, message_sha256(sft_batch(rows)), {})
            self.ledger.commit_round("sft", number, {}, 1.0)
        self.published("sft", "sft", len(steps))
        self.ledger.finish_stage("sft", {})

    def round(self, number: int) -> None:
        """One PPO round, whole."""
        self.sampled(number)
        self.scored(number)
        self.published("ppo", "policy", number)
        if number % 2 == 0 and number != self.rounds:
            self.checkpoint(number)
        self.ledger.commit_round("ppo", number, {"loss": 0.5}, 1.0)

    def sampled(self, number: int) -> None:
        """The round's chunks and their account."""
        self.ledger.begin_round("ppo", number, 4)
        rollouts = self.rollouts(number)
        for index in range(2):
            chunk = trainer_pb2.PpoBatch(rollouts=rollouts[4 * index : 4 * index + 4])
            self.payload(number, f"chunk-{index}", chunk)
        self.ledger.finish_phase("ppo", number, "sampled", {"chunks": 2, **account_of(rollouts)})

    def scored(self, number: int) -> None:
        """The round's batch, and the step that trains on it."""
        rollouts = self.rollouts(number)
        excluded = []
        for index, each in enumerate(rollouts):
            if (each.prompt_id, each.sample_index) == UNSCORED:
                each.score.error.reason = "too_long"
                excluded.append([index, "too_long"])
            else:
                each.score.value.raw = each.score.value.normalised = float(index)
        batch = trainer_pb2.PpoBatch(rollouts=rollouts)
        self.payload(number, "scored", batch)
        metrics = {"rollouts": float(len(rollouts) - len(excluded))}
        self.trained("ppo", number, message_sha256(batch), metrics, excluded)

    def rollouts(self, number: int) -> list[types_pb2.Rollout]:
        """What the policy would have drawn for the round's places of the cursor."""
        row = self.ledger.round("ppo", number)
        assert row is not None
        seed = derive(self.recipe.seed, "ppo")
        drawn = prompts_at(row.cursor_start, row.cursor_end - row.cursor_start, 6, seed)
        return [
            types_pb2.Rollout(
                prompt_id=f"p{index}",
                sample_index=epoch * SAMPLES + sample,
                prompt_ids=[1, 2],
                response_ids=[3] * (1 + (index + sample) % 5),
                response_text=f"answer {number}",
            )
            for index, epoch in drawn
            for sample in range(SAMPLES)
        ]

    def payload(self, number: int, phase: str, batch: trainer_pb2.PpoBatch) -> None:
        """A payload and its phase."""
        path = self.directory / "rollouts" / "ppo" / f"{number:06d}" / f"{phase}.pb"
        self.ledger.finish_phase("ppo", number, phase, write_payload(path, batch).as_row())

    def trained(
        self, stage: str, number: int, batch: str, metrics: dict[str, float], excluded: Any = ()
    ) -> None:
        """A step's phase."""
        output = dict(step=number, trained=True, metrics=metrics, excluded_rows=list(excluded))
        counts = {reason: sum(1 for _, each in excluded if each == reason) for _, reason in excluded}
        output |= dict(excluded=counts, weights_sha256=f"{number:064x}", batch_sha256=batch)
        self.ledger.finish_phase(stage, number, "trained", output)

    def published(self, stage: str, model: str, number: int, parent: ModelVersion | None = None) -> None:
        """A version on disk, its row, and its phase."""

        def write(directory: Path) -> None:
            (directory / "model.safetensors").write_bytes(f"{model} {number}".encode())
            (directory / "config.json").write_text("{}")

        made = publish(self.directory / "models", model, number, write, parent=parent or self.parent)
        self.parent = made.version
        uri = str(made.path.resolve())
        self.ledger.add_version(model, number, made.version.sha256, uri, stage, number)
        output = {"number": number, "sha256": made.version.sha256, "uri": uri}
        self.ledger.finish_phase(stage, number, "published", output)

    def checkpoint(self, step: int) -> None:
        """A checkpoint on disk and its row."""
        state = f"state {step}".encode()
        directory = self.directory / "checkpoints" / "ppo" / f"step-{step:06d}-{step:08x}"
        directory.mkdir(parents=True)
        (directory / "state.json").write_bytes(state)
        listed = {"state.json": {"sha256": hashlib.sha256(state).hexdigest(), "bytes": len(state)}}
        manifest = json.dumps({"files": listed}).encode()
        (directory / "manifest.json").write_bytes(manifest)
        sha256 = hashlib.sha256(manifest).hexdigest()
        self.ledger.add_checkpoint("ppo", step, str(directory.resolve()), sha256)
