"""The chaos run's world and recipe: as small as a whole run goes, so that hundreds of faults fit in."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.tiny_models import write_tiny_model

PROMPTS = 48
RULE = "benchmarks.chaos.world:variety"


def variety(prompt: str, response: str) -> float:
    """The rule that labels comparisons: the share of a response's words that differ from each other."""
    words = response.split()
    return len(set(words)) / len(words) if words else 0.0


def write_world(directory: Path, rounds: int, seed: int) -> Path:
    """Model, data and recipe in a directory; the recipe's path."""
    write_tiny_model(directory / "model", "llama", seed=seed)
    demonstrations = [{"messages": conversation(index)} for index in range(PROMPTS)]
    prompts = [{"prompt_id": f"p{i}", "messages": conversation(i)[:1]} for i in range(PROMPTS)]
    for name, rows in (("demonstrations", demonstrations), ("prompts", prompts)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = directory / "chaos.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(directory, rounds, seed), sort_keys=False))
    return recipe


def conversation(index: int) -> list[dict[str, str]]:
    """A question of three words and an answer of three, of the tiny model's vocabulary."""
    words = [f"w{(index * step + step) % 59}" for step in (1, 7, 13, 17, 23, 31)]
    return [
        {"role": "user", "content": " ".join(words[:3])},
        {"role": "assistant", "content": " ".join(words[3:])},
    ]


def recipe_of(directory: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Every kind of stage; each round has four chunks, so that several calls are under way at once."""
    sampling = {"temperature": 1.0, "max_new_tokens": 8}
    prompts = str(directory / "prompts.jsonl")
    return {
        "name": "chaos",
        "seed": seed,
        "models": {"start": str(directory / "model")},
        "services": {"reward": {"learned": ["reward"], "rules": {"gold": RULE}}},
        "supervision": {
            "patience_seconds": 180.0,
            "restarts": 100,  # this run is about surviving more ends than any real one has
            "health_seconds": 5.0,
            "silence_seconds": 5.0,
            "standstill_seconds": 30.0,
        },
        "stages": {
            "sft": {
                "kind": "sft",
                "init": "start",
                "output": "sft",
                "data": str(directory / "demonstrations.jsonl"),
                "epochs": 2,
                "rows_per_step": 8,
                "minibatch_size": 8,
                "micro_batch_size": 8,
                "max_tokens": 32,
                "checkpoint_every": 2,
                "optimizer": {"learning_rate": 1e-3},
            },
            "collect": {
                "kind": "collect",
                "policy": "sft",
                "prompts": prompts,
                "prompt_limit": 24,
                "samples_per_prompt": 2,
                "prompts_per_chunk": 4,
                "sampling": sampling,
                "label": {"kind": "simulated", "scorer": "gold", "scale": 2.0},
                "output": "comparisons",
            },
            "reward": {
                "kind": "reward",
                "init": "sft",
                "comparisons": "comparisons",
                "output": "reward",
                "epochs": 2,
                "rows_per_step": 4,
                "minibatch_size": 4,
                "micro_batch_size": 8,
                "max_tokens": 32,
                "checkpoint_every": 2,
                "optimizer": {"learning_rate": 1e-3},
                "normalisation": {"samples": 8},
            },
            "ppo": ppo_stage(prompts, sampling, rounds),
            "evaluate": {
                "kind": "evaluate",
                "before": "sft",
                "after": "policy",
                "reference": "sft",
                "prompts": prompts,
                "prompt_limit": 8,
                "prompts_per_chunk": 4,
                "sampling": sampling,
                "gold_scorer": "gold",
                "proxy_scorer": "reward",
            },
            "export": {"kind": "export", "model": "policy", "directory": "{run}/export"},
        },
    }


def ppo_stage(prompts: str, sampling: dict[str, Any], rounds: int) -> dict[str, Any]:
    """The rounds: a checkpoint every third, so that a restart replays up to two; gold every fourth."""
    return {
        "kind": "ppo",
        "policy": "sft",
        "reference": "sft",
        "critic": "reward",
        "scorer": "reward",
        "gold_scorer": "gold",
        "gold_prompts": prompts,
        "gold_every": 4,
        "gold_limit": 8,
        "prompts": prompts,
        "rounds": rounds,
        "prompts_per_round": 8,
        "samples_per_prompt": 1,
        "prompts_per_chunk": 2,
        "sampling": sampling,
        "checkpoint_every": 3,
        "output": "policy",
        "algorithm": {
            "epochs": 1,
            "policy_optimizer": {"learning_rate": 1e-3},
            "critic_optimizer": {"learning_rate": 1e-3},
        },
    }
