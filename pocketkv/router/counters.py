"""What a router counts beside its commands, and how metrics are told of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.observability.metrics import Figures, Name

if TYPE_CHECKING:
    from pocketkv.router.routing import Router

PROXIED: Final = Name("proxied_requests_total", "counter", "Requests sent to storage servers.")
RETRIES: Final = Name(
    "proxied_retries_total", "counter", "Requests sent again: a slot had moved, a link had broken."
)
UPSTREAM_ERRORS: Final = Name(
    "upstream_errors_total", "counter", "Requests that failed because a server did not answer."
)
UPSTREAM_OPENED: Final = Name(
    "upstream_connections_opened_total", "counter", "Connections opened to storage servers."
)
UPSTREAM_CONNECTIONS: Final = Name(
    "upstream_connections", "gauge", "Open connections to a storage server.", ("server",)
)
IN_FLIGHT: Final = Name(
    "upstream_in_flight_bytes", "gauge", "Requests that a server has not answered.", ("server",)
)
HELD: Final = Name("held_requests", "gauge", "Requests held back until there is room, or a map.")
JOINED: Final = Name("controller_joined", "gauge", "Whether the controller is there.")


class RouterCounters:
    """Counts of one router, since it began."""

    __slots__ = ("lanes_opened", "proxied", "retries", "upstream_errors")

    def __init__(self) -> None:
        self.proxied = 0
        self.retries = 0
        self.upstream_errors = 0
        self.lanes_opened = 0


def figures(router: Router) -> Iterator[Figures]:
    """The router's own metrics, as a source of `NodeMetrics`."""
    counters = router.counters
    yield Figures(PROXIED).add(counters.proxied)
    yield Figures(RETRIES).add(counters.retries)
    yield Figures(UPSTREAM_ERRORS).add(counters.upstream_errors)
    yield Figures(UPSTREAM_OPENED).add(counters.lanes_opened)
    connections, in_flight = Figures(UPSTREAM_CONNECTIONS), Figures(IN_FLIGHT)
    for upstream in router.upstreams.values():
        connections.add(len(upstream.lanes), upstream.id)
        in_flight.add(upstream.in_flight_bytes, upstream.id)
    yield connections
    yield in_flight
    yield Figures(HELD).add(router.held_requests())
    yield Figures(JOINED).add(1 if router.controller_joined() else 0)
