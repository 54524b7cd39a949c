"""What a stage asks of the policy's engine, held against what its replicas say they can do, before any draw.

Every engine gives a log-prob with each token it draws, and the reference and the trainer compute their own,
so no stage needs log-probs of given ids from an engine.
"""

from collections.abc import Iterator

from orchestrator.recipe import Recipe
from orchestrator.recipe_settings import SamplingSettings
from orchestrator.run import Run, RunError
from trueline.v1 import policy_pb2, types_pb2

KINDS = {types_pb2.LOGPROB_KIND_TEMPERATURE, types_pb2.LOGPROB_KIND_PROCESSED}


async def try_starts(run: Run) -> None:
    """Has the policy load what its later models descend from, before anything trains.

    Their architecture is that model's: one that the engine cannot sample is refused at this load already.
    """
    for model in sampled_starts(run.recipe):
        await run.serve_policy(model)


def sampled_starts(recipe: Recipe) -> list[str]:
    """The given models of which the sampled ones are made: ["start"] for an sft of it and a ppo of that."""
    roots: dict[str, str] = {}
    for stage in recipe.stages.values():
        made, parent = getattr(stage, "output", None), getattr(stage, "init", None)
        parent = parent or getattr(stage, "policy", None)
        if made is not None and parent is not None:
            roots[made] = roots.get(parent, parent)
    sampling = [stage for stage in recipe.stages.values() if "policy" in stage.services]
    asked = [getattr(stage, field, None) for stage in sampling for field in ("policy", "before", "after")]
    starts = [roots.get(model, model) for model in asked if model is not None]
    return [start for start in dict.fromkeys(starts) if start in recipe.models]


async def check_engines(run: Run, stage: str, sampling: SamplingSettings, versions: int) -> None:
    """RunError that names all that a replica's engine lacks for a stage that loads so many versions.

    What is not an obstacle but changes what a resume promises is noted in the ledger, once.
    """
    for replica in list(run.peers.direct.get("policy", {}).values()):
        able = await run.ask("policy", replica.get_policy)
        lacking = list(lacks(able, sampling, versions))
        if lacking:
            said = "; ".join(lacking)
            raise RunError(f"stages.{stage}: the policy at {replica.target} runs {able.engine}: {said}")
        if not able.deterministic:
            note = (
                f"the policy's engine {able.engine} does not repeat its bits: a chunk that is drawn again "
                "after a crash may differ, and byte-identity with an unbroken run does not hold"
            )
            if note not in run.ledger.info()["notes"]:
                run.ledger.note(note)


async def check_tokens(run: Run, stage: str) -> None:
    """RunError where reference and policy read other tokens: their log-probs would have nothing in common."""
    found: dict[str, set[str]] = {}
    for service, ask in (("policy", "get_policy"), ("reference", "get_reference")):
        for replica in list(run.peers.direct.get(service, {}).values()):
            told = await run.ask(service, getattr(replica, ask))
            found.setdefault(service, set()).add(told.tokenizer_sha256)
    if found.get("policy") != found.get("reference"):
        raise RunError(
            f"stages.{stage}: the reference's tokenizer is not the policy's, so that its log-probs are of "
            "other tokens: take the model that the policy began as"
        )


def lacks(able: policy_pb2.GetPolicyResponse, sampling: SamplingSettings, versions: int) -> Iterator[str]:
    """What the engine cannot do that these settings need, a sentence each, with what to do."""
    if len(sampling.stop) > able.stop_texts:
        yield f"sampling.stop has {len(sampling.stop)} texts, and it takes {able.stop_texts} at most"
    if sampling.top_k and not able.top_k:
        yield "sampling.top_k is set, and it has none"
    if not able.seeds:
        yield "it takes no seed for a completion, and a lost chunk could not be drawn again"
    if not KINDS & set(able.logprob_kinds):
        yield "its log-probs are not of what it draws from, and the trainer could not use them"
    if versions > 1 and not (able.hot_swap or able.restarts):
        yield (
            f"the stage loads {versions} versions, and it serves the one that it was started with: give it "
            "--restart-file, or take --engine vllm or transformers"
        )
