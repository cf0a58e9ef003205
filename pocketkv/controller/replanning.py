"""A better plan for a job that has slots already: with as little to be moved as it takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pocketkv.catalog import Catalog
from pocketkv.controller.policy import Commitment, Decision, place
from pocketkv.jobs import Hints, infer
from pocketkv.placement import Server, ServerState
from pocketkv.slots import SLOT_COUNT


def replan(
    hints: Hints,
    catalog: Catalog,
    servers: Iterable[Server],
    committed: Mapping[str, Commitment],
    planned: Mapping[str, int],
    *,
    spread: bool = False,
) -> Decision:
    """Return where a job had best be, of which `planned` slots are on, or on their way to, servers.

    What it has on servers that are up stays there, unless it gets too little for it. A job that
    does not say what it needs stays as well, and goes over all servers only if it is to `spread`.

    Args:
        hints: What the job says of itself.
        catalog: What servers of each tier are like.
        servers: Those that live.
        committed: What other jobs keep, by server.
        planned: Slots by server; those on servers that are not up are to go.
        spread: There are new servers that may help.

    Raises:
        CatalogError: as in `place`.
    """
    living = {server.id: server for server in servers}
    if any(server.state is ServerState.UP for server in living.values()):
        staying = {n for n, server in living.items() if server.state is ServerState.UP}
    else:
        staying = set(living)
    keep = {name: n for name, n in planned.items() if name in staying and n}

    def placed(held: Mapping[str, int]) -> Decision:
        return place(hints, catalog, living.values(), committed, held)

    if not (hints.capacity_bytes or hints.throughput_bytes_s or hints.lambdas):
        return placed({} if spread else keep)
    stay = placed(keep)
    if not stay.shortages:
        return stay
    fitting = {
        name: min(n, _fitting_slots(hints, catalog, living[name], committed))
        for name, n in keep.items()
    }
    choices = [stay, placed({name: n for name, n in fitting.items() if n}), placed({})]
    return min(choices, key=lambda decision: (_lack(decision), _moved(keep, decision)))


def _fitting_slots(
    hints: Hints, catalog: Catalog, server: Server, committed: Mapping[str, Commitment]
) -> int:
    """Return how many of a job's slots a server has room for."""
    others = committed.get(server.id, Commitment())
    share = 1.0
    if hints.capacity_bytes:
        free_bytes = server.capacity_bytes - others.capacity_bytes
        share = min(share, free_bytes / hints.capacity_bytes)
    if hints.throughput_bytes_s or hints.lambdas:
        free_bytes_s = server.bandwidth_bytes_s - others.throughput_bytes_s
        share = min(share, free_bytes_s / max(1, infer(hints, catalog).throughput_bytes_s))
    return max(0, int(share * SLOT_COUNT))


def _lack(decision: Decision) -> float:
    """Return how much is short, in parts of what is wanted; each resource counts by itself."""
    lacking = sum(1 - short.available / max(1, short.wanted) for short in decision.shortages)
    return round(lacking, 6)


def _moved(keep: Mapping[str, int], decision: Decision) -> int:
    return sum(max(0, n - decision.slots.get(name, 0)) for name, n in keep.items())
