"""Slots by server, within bounds: as even as these permit, or as much as there is room. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pocketkv.controller.policy.needs import ROUNDING
from pocketkv.slots import SLOT_COUNT


def whole_slots(limits: Mapping[str, float]) -> dict[str, int]:
    """Return how many slots each server may have, `limits` being shares of the job.

    Rounded down, but where shares that together are enough would so lack a slot: a slot cannot
    be halved. Then those that lose most by the rounding are given one more.
    """
    exact = {name: limit * SLOT_COUNT for name, limit in limits.items()}
    slots = {name: int(amount + ROUNDING * SLOT_COUNT) for name, amount in exact.items()}
    lacking = min(SLOT_COUNT, math.floor(sum(exact.values()) + ROUNDING * SLOT_COUNT))
    lacking -= sum(slots.values())
    if lacking > 0:
        for name in sorted(exact, key=lambda n: (slots[n] - exact[n], n))[:lacking]:
            slots[name] += 1
    return slots


def levelled(bounds: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Return slots for each server, all of them, as even as its bounds (least, most) permit.

    What nobody gets is left out. The bounds must allow for all slots.
    """
    names = sorted(bounds)
    pairs = [bounds[name] for name in names]
    # The highest level up to which everything can be filled, by bisection.
    level, too_high = 0, SLOT_COUNT + 1
    while too_high - level > 1:
        middle = (level + too_high) // 2
        if sum(_filled(pairs, middle)) <= SLOT_COUNT:
            level = middle
        else:
            too_high = middle
    filled = _filled(pairs, level)
    left = SLOT_COUNT - sum(filled)
    slots = {}
    for name, n, (_, most) in zip(names, filled, pairs, strict=True):
        if left and n == level < most:
            n += 1
            left -= 1
        if n:
            slots[name] = n
    return slots


def _filled(bounds: list[tuple[int, int]], level: int) -> list[int]:
    """Return what servers have, of these least and most slots, when filled up to a level."""
    return [low if level < low else (high if level > high else level) for low, high in bounds]


def in_proportion(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return `count` slots in proportion to `shares`, of which one at least is above 0.

    Who gets none is left out.
    """
    total = sum(shares.values())
    wanted = {name: count * share / total for name, share in sorted(shares.items()) if share}
    slots = {name: int(n) for name, n in wanted.items()}
    left = count - sum(slots.values())
    for name in sorted(wanted, key=lambda n: (slots[n] - wanted[n], n))[:left]:
        slots[name] += 1
    return {name: n for name, n in slots.items() if n}
