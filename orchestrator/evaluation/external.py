"""Who judges at addresses: what such a judge says of itself tells one evaluation from another."""

import asyncio
from typing import Any

from google.protobuf.json_format import MessageToDict

from orchestrator.access import access_of
from orchestrator.peers import Peers
from orchestrator.recipe_settings import Services
from orchestrator.replicas import ReplicasMissing, find_replicas
from trueline import CallError
from trueline.v1 import judge_pb2

ANSWER_SECONDS = 10.0  # for pods of a cluster to be there; a judge that is not has only its address


def judge_at_addresses(services: dict[str, Any]) -> dict[str, Any] | None:
    """The model, version and constitution of a recipe's judge at addresses; these, where it does not answer.

    The constitution alone of a judge that is to load a model of the recipe, whatever it serves until then.
    None where no judge is at addresses.
    """
    judge = services.get("judge") or {}
    if not judge.get("addresses"):
        return None
    said = asyncio.run(_asked(Services.model_validate({"judge": {"addresses": judge["addresses"]}})))
    if said is None or not (said.judge.model or judge.get("model")):
        return {"addresses": sorted(judge["addresses"])}
    who = None if judge.get("model") else MessageToDict(said.judge, preserving_proto_field_name=True)
    return {"judge": who, "constitution_sha256": said.constitution.sha256}


async def _asked(services: Services) -> judge_pb2.GetConstitutionResponse | None:
    """None where nobody answers."""
    addresses, never = {"judge": services.judge.addresses}, asyncio.Event()
    try:
        async with (
            find_replicas(addresses, ANSWER_SECONDS, lambda text: None, never) as where,
            Peers(where, access=access_of(services)) as peers,
        ):
            return await peers.judge.get_constitution()
    except (CallError, ReplicasMissing):
        return None
