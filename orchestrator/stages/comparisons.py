"""Importing comparisons that people or others have made."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from orchestrator.comparison_files import ranking_pairs
from orchestrator.data import Rows, read_comparisons
from orchestrator.recipe_stages import ComparisonsStage
from orchestrator.run import Run, RunError
from orchestrator.seeds import derive, shuffled
from orchestrator.shapes import DETAILS, opening, prompt_part
from orchestrator.sources import read_rows

Row = dict[str, Any]


async def run_comparisons(run: Run, name: str, settings: ComparisonsStage) -> dict[str, Any]:
    """Keeps one collection of comparisons; its prompts are split, not its pairs."""
    seed = derive(run.recipe.seed, name)
    rows = read_rows(run, read_comparisons, settings.data)
    if settings.held_out_data is None:
        prompts = by_prompt(rows, seed)
        held_out = held_out_prompts(prompts, settings.held_out_share, seed)
    else:
        apart = read_rows(run, read_comparisons, settings.held_out_data)
        refuse_shared(name, rows, apart)
        rows, held_out = Rows([*rows, *apart]), {prompt_id(row) for row in apart}
        prompts = by_prompt(rows, seed)
    kept = {"source": settings.source, "policy_version": {}}
    run.ledger.add_comparisons(
        settings.output, [{**row, **kept, "held_out": row["prompt_id"] in held_out} for row in prompts]
    )
    run.progress.note(f"{name}: {len(rows)} comparisons of {len(prompts)} prompts")
    return {
        "prompts": len(prompts),
        "comparisons": sum(len(row["preferences"]) for row in prompts),
        "held_out_prompts": len(held_out),
    }


def refuse_shared(name: str, training: Sequence[Row], held_out: Sequence[Row]) -> None:
    """RunError where a held-out prompt is a training prompt too, by name or by content: its accuracy would
    flatter."""
    names, contents = {prompt_id(row) for row in training}, {content_id(row) for row in training}
    shared = sorted(
        {prompt_id(row) for row in held_out if prompt_id(row) in names or content_id(row) in contents}
    )
    if shared:
        raise RunError(
            f"stages.{name}.held_out_data: {len(shared)} of its prompts are in data too, the first: "
            f"{shared[0]}; take them out of one of the two"
        )


def by_prompt(rows: Sequence[Row], seed: int) -> list[Row]:
    """One row for each prompt, with all its responses and comparisons.

        {"text": "p", "chosen": "a", "rejected": "b"}, {"text": "p", "chosen": "c", "rejected": "b"}  become
        {"prompt_id": ..., "prompt": {"text": "p"}, "responses": ["b", "c", "a"], "preferences": [[2, 0, 1.0],
         [1, 0, 1.0]]}

    The responses are in an order drawn from `seed`, so that their places do not tell which was chosen.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(prompt_id(row), []).append(row)
    return [_group(name, group, derive(seed, "responses", name)) for name, group in groups.items()]


def prompt_id(row: Row) -> str:
    """The prompt's own name, or one made of its content."""
    return str(row["prompt_id"]) if "prompt_id" in row else content_id(row)


def content_id(row: Row) -> str:
    """A name for what the prompt says, whatever it is called."""
    content = json.dumps(prompt_part(row), sort_keys=True).encode()
    return f"prompt-{hashlib.sha256(content).hexdigest()[:16]}"


def _group(name: str, rows: list[Row], seed: int) -> Row:
    compared = [(*pair, row) for row in rows for pair in _pairs(row)]
    texts = list(dict.fromkeys(text for pair in compared for text in pair[:2]))
    responses = [texts[index] for index in shuffled(len(texts), seed)]
    places = {text: index for index, text in enumerate(responses)}
    return {
        "prompt_id": name,
        "prompt": prompt_part(rows[0]),
        "responses": responses,
        "preferences": [[places[better], places[worse], chance] for better, worse, chance, _ in compared],
        "rankings": [
            [places[row["responses"][int(i)]] for i in row["ranking"]] for row in rows if "ranking" in row
        ],
        "details": [{key: row[key] for key in DETAILS if row.get(key) is not None} for *_, row in compared],
    }


def _pairs(row: Row) -> list[tuple[str, str, float]]:
    """(the better text, the worse one, how likely that is); of a ranking every pair."""
    if "ranking" in row:
        texts = row["responses"]
        return [(texts[int(i)], texts[int(j)], chance) for i, j, chance in ranking_pairs(row["ranking"])]
    return [(row["chosen"], row["rejected"], float(row.get("probability", 1.0)))]


def held_out_prompts(prompts: Sequence[Row], share: float, seed: int) -> set[str]:
    """The names of about `share` of the prompts. Those that begin alike are held out, or train, together.

    Turns of one conversation are rows of their own in many collections; a model that trained on one of them
    would be measured on another.
    """
    families: dict[str, list[str]] = {}
    for row in prompts:
        families.setdefault(opening(row["prompt"]), []).append(row["prompt_id"])
    names = list(families.values())
    wanted, held_out = round(share * len(prompts)), set[str]()
    for index in shuffled(len(names), derive(seed, "held-out")):
        if len(held_out) + len(names[index]) <= wanted:
            held_out.update(names[index])
    return held_out
