"""TRL's PPO trainer on a workload, timed; runs in an environment of its own that holds TRL.

    .venv-peer/bin/python -m benchmarks.peer.trl_ppo --world DIR --batch 64

Prints one JSON line: rollouts per second, and seconds per round by phase.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peer.workload import Workload


class Stopwatch:
    """Seconds per phase since the last `restart`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.restart()

    def restart(self) -> None:
        self.seconds.clear()
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def timed(self, phase: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its seconds added to the phase that `phase(*arguments)` names."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[phase(*args)] += time.perf_counter() - began
            return result

        return call


def measure(workload: Workload, world: Path) -> dict[str, Any]:
    """Train for the workload's rounds; figures of those after the warm-up."""
    import torch
    from transformers import TrainerCallback
    from trl.experimental.ppo import ppo_trainer  # type: ignore[import-not-found]

    torch.set_num_threads(workload.threads)
    watch = Stopwatch()

    class Rounds(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == workload.warmup:
                watch.restart()

    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(workload, world, scratch)
        _time_phases(watch, ppo_trainer, trainer)
        trainer.callback_handler.add_callback(Rounds())
        trainer.train()
        wall, processor = time.perf_counter() - watch.wall, time.process_time() - watch.processor
    phases = {name: seconds / workload.rounds for name, seconds in sorted(watch.seconds.items())}
    phases["optimisation"] = wall / workload.rounds - sum(phases.values())
    return {
        "rollouts_per_second": workload.rollouts / wall,
        "phase_seconds": phases,
        "processor_seconds_per_round": processor / workload.rounds,
    }


def _trainer(workload: Workload, world: Path, scratch: str) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    settings = PPOConfig(
        output_dir=scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=workload.micro_batch,
        gradient_accumulation_steps=workload.batch // workload.micro_batch,
        num_mini_batches=1,
        local_rollout_forward_batch_size=workload.batch,
        num_ppo_epochs=workload.epochs,
        total_episodes=(workload.warmup + workload.rounds) * workload.batch,
        response_length=workload.response_tokens,
        stop_token=None,  # no response ends early
        temperature=1.0,
        learning_rate=1e-5,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.seed,
    )
    tokenizer = AutoTokenizer.from_pretrained(world / "model", padding_side="left")
    lines = (world / "prompts.jsonl").read_text().splitlines()
    prompts = Dataset.from_dict(
        {"input_ids": [tokenizer(json.loads(line)["text"]).input_ids for line in lines]}
    )
    return PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(world / "model"),
        ref_model=AutoModelForCausalLM.from_pretrained(world / "model"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(world / "reward"),
        value_model=AutoModelForSequenceClassification.from_pretrained(world / "reward"),
        train_dataset=prompts,
        eval_dataset=prompts,
    )


def _time_phases(watch: Stopwatch, module: Any, trainer: Any) -> None:
    """Put the stopwatch around the functions that TRL's round calls; what is left is optimisation."""
    import torch

    models = {id(trainer.reward_model): "reward", id(trainer.ref_model): "reference"}

    def whose(model: Any, *_: Any) -> str:
        return models.get(id(model), "values")

    optimise, score = module.forward, watch.timed(whose, module.forward)
    module.forward = lambda *args: (optimise if torch.is_grad_enabled() else score)(*args)
    module.get_reward = watch.timed(whose, module.get_reward)
    module.batch_generation = watch.timed(lambda *_: "generation", module.batch_generation)


def main() -> None:
    parser = argparse.ArgumentParser(description="TRL's PPO trainer on a workload, timed.")
    parser.add_argument("--world", type=Path, required=True, help="what benchmarks.world wrote")
    workload, options = Workload.from_flags(parser)
    os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")
    with contextlib.redirect_stdout(sys.stderr):
        figures = measure(workload, options.world)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
