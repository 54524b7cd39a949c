"""Trueline's client: all that another system needs to call the services. No torch, no numpy.

import asyncio, trueline
async def main():
    async with trueline.RewardClient("localhost:50053") as reward:
        print(await reward.score("helpfulness", [("Where is my parcel?", "Let me look that up for you.")]))
asyncio.run(main())
"""

from trueline.access import Access
from trueline.client import PolicyClient, ReferenceClient, RewardClient
from trueline.context import call_context
from trueline.errors import CallError
from trueline.health import wait_until_ready
from trueline.judge_client import JudgeClient
from trueline.service_client import ServiceClient
from trueline.trainer_client import TrainerClient
from trueline.version import __version__

__all__ = [
    "Access",
    "CallError",
    "JudgeClient",
    "PolicyClient",
    "ReferenceClient",
    "RewardClient",
    "ServiceClient",
    "TrainerClient",
    "__version__",
    "call_context",
    "wait_until_ready",
]
