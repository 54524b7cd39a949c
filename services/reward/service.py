"""The reward service's edge: messages become exchanges, outcomes become messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from services.model_edge import load_weights
from services.reward.hosting import Rewards
from services.reward.scorers import Description, Exchange, Outcome, Scored
from services.wire import (
    convert_items,
    expected_version_from_pb,
    item_prompt_from_pb,
    timing_to_pb,
    version_to_pb,
)
from trueline.v1 import reward_pb2, reward_pb2_grpc, types_pb2


class RewardServicer(reward_pb2_grpc.RewardServiceServicer):
    """The rpcs of trueline.v1.RewardService, and the application that the bootstrap runs."""

    def __init__(self, rewards: Rewards) -> None:
        self.rewards = rewards

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the rpcs to a server."""
        reward_pb2_grpc.add_RewardServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Loads models; see Rewards.start."""
        await self.rewards.start()

    async def Score(self, request: reward_pb2.ScoreRequest, context: Any) -> reward_pb2.ScoreResponse:
        """Scores a batch with one scorer."""
        exchanges = convert_items(request.items, exchange_from_pb, self.rewards.settings.max_items)
        expected = expected_version_from_pb(request)
        (description, outcomes), timing = await self.rewards.score(request.scorer, exchanges, expected)
        return reward_pb2.ScoreResponse(
            scores=[score_to_pb(outcome) for outcome in outcomes],
            scorer=scorer_to_pb(description),
            timing=timing_to_pb(timing),
        )

    async def ListScorers(
        self, request: reward_pb2.ListScorersRequest, context: Any
    ) -> reward_pb2.ListScorersResponse:
        """The scorers hosted here."""
        scorers = [scorer_to_pb(description) for description in self.rewards.descriptions()]
        return reward_pb2.ListScorersResponse(scorers=scorers)

    async def LoadWeights(
        self, request: reward_pb2.RewardServiceLoadWeightsRequest, context: Any
    ) -> AsyncGenerator[reward_pb2.RewardServiceLoadWeightsResponse, None]:
        """Swaps in a version of a learned scorer."""
        place, response = self.rewards.place(request.scorer), reward_pb2.RewardServiceLoadWeightsResponse
        async for event in load_weights(place, self.rewards.fence, request, response):
            yield event


def exchange_from_pb(item: reward_pb2.ScoreItem, field: str) -> Exchange:
    """A response to score."""
    return Exchange(item_prompt_from_pb(item, field), item.response)


def score_to_pb(outcome: Outcome) -> types_pb2.Score:
    """A value or an error, never both and never neither."""
    if isinstance(outcome, Scored):
        value = types_pb2.ScoreValue(
            raw=outcome.raw,
            normalised=outcome.normalised,
            truncated=outcome.truncated,
            tokens=outcome.tokens,
            disagreement=outcome.disagreement,
        )
        return types_pb2.Score(value=value)
    # What a rule says of its fault may hold half a character, which no message can.
    message = outcome.message.encode("utf-8", errors="replace").decode("utf-8")
    return types_pb2.Score(error=types_pb2.ItemError(reason=outcome.reason, message=message))


def scorer_to_pb(description: Description) -> reward_pb2.Scorer:
    """The message of a scorer; what it does not have stays unset."""
    kind = reward_pb2.SCORER_KIND_RULE if description.function else reward_pb2.SCORER_KIND_LEARNED
    kind = reward_pb2.SCORER_KIND_COMBINED if description.combination else kind
    fitted = description.normalisation
    return reward_pb2.Scorer(
        name=description.name,
        kind=kind,
        version=version_to_pb(description.version) if description.version else None,
        function=description.function,
        tokenizer_sha256=description.tokenizer_sha256,
        template_sha256=description.template_sha256,
        context_length=description.context_length,
        normalisation=reward_pb2.Normalisation(**vars(fitted)) if fitted else None,
        combination=description.combination,
        parts=description.parts,
    )
