"""python -m k8s.components.helpdesk.derive: writes recipe.yaml from recipes/helpdesk-ppo.yaml.

The stages stay as they are, to the letter. The services get their addresses in the cluster, and {prepared}
its place on the shared volume, where a Job has put what the prepare command would have made.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[2] / "recipes" / "helpdesk-ppo.yaml"
TARGET = HERE / "recipe.yaml"
PREPARED = "/artifacts/worlds/helpdesk"
PREPARE_BLOCK = re.compile(r"(?m)^(#.*\n)*prepare:\n( .*\n)+\n")
SERVICES_BLOCK = re.compile(r"(?m)^services:\n( .*\n)+")
SERVICES = """services:
  policy: {addresses: ["kubernetes:///policy:50051"]}
  reference: {addresses: ["kubernetes:///reference:50052"]}
  reward:
    addresses: ["kubernetes:///reward:50053"]
    learned: [reward]
    rules:
      gold: "worlds.helpdesk.gold:score"
      best: "worlds.helpdesk.gold:best_possible_score"
      manners: "worlds.helpdesk.gold:with_perfect_manners"
  trainer: {addresses: ["trainer-0.trainer:50054"], threads: 2}
"""


def derived(source: str) -> str:
    """The recipe with the cluster's places. ValueError where it has lost the parts that are replaced."""
    text, prepares = PREPARE_BLOCK.subn("", source)
    text, services = SERVICES_BLOCK.subn(lambda _: SERVICES, text)
    if (prepares, services) != (1, 1):
        raise ValueError(
            f"{SOURCE.name}: expected one prepare and one services block, found {prepares}, {services}"
        )
    return text.replace("{prepared}", PREPARED)


if __name__ == "__main__":
    TARGET.write_text(derived(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {TARGET}", file=sys.stderr)
