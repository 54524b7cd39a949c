"""Seeds: every draw of a run follows from the run's seed and the names of what is drawn."""

import hashlib
import random


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the thing that `names` name, such as derive(0, "ppo", 12, "sample").

    63 bits, so that it fits a signed integer in every database and library.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers 0..count-1 in an order that `seed` decides."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def prompts_at(start: int, count: int, available: int, seed: int) -> list[tuple[int, int]]:
    """(index, epoch) of the prompts at cursor positions start..start+count-1.

    The cursor runs over the prompts in epochs, each in an order of its own, so that every prompt is
    used once before any is used twice: with 3 prompts, positions 0-5 are two permutations of 0-2, the
    first in epoch 0 and the second in epoch 1. Around a seam one round may hold a prompt of both.
    """
    orders: dict[int, list[int]] = {}
    places = []
    for position in range(start, start + count):
        epoch, offset = divmod(position, available)
        if epoch not in orders:
            orders[epoch] = shuffled(available, derive(seed, "prompts", epoch))
        places.append((orders[epoch][offset], epoch))
    return places
