"""One of several controllers in a Kubernetes cluster: it leads, or stands by.

All replicas serve, are healthy and ready; the one that holds the lease leads: it reads the state in
the API, labels its own pod so that the Service leads to it, and is the controller until the lease
is lost, the state cannot be written, or it is told to stop. It then drops its members and stands by
again: nothing that it has in memory is kept, since another one may have gone on from what is
written. Members have their last maps meanwhile, and serve.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import trio

from pocketkv.catalog import Catalog, CatalogError, load_catalog
from pocketkv.config import ControllerConfig
from pocketkv.controller.administration import Administration
from pocketkv.controller.backends.kubernetes import pods
from pocketkv.controller.backends.kubernetes.api import (
    MERGE_PATCH,
    Api,
    ApiError,
    Document,
    NoClusterError,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.backend import KubernetesBackend, read_sets
from pocketkv.controller.backends.kubernetes.door import Door
from pocketkv.controller.backends.kubernetes.lease import Candidate, LeaseTimes
from pocketkv.controller.backends.kubernetes.pocketjobs import PocketJobs
from pocketkv.controller.backends.kubernetes.retrying import Backoff
from pocketkv.controller.backends.kubernetes.store import KubernetesStore
from pocketkv.controller.core import Core
from pocketkv.controller.figures import LEADING, figures
from pocketkv.controller.requests import ControllerHandler
from pocketkv.controller.service import make_core, make_node
from pocketkv.controller.store import StoreError
from pocketkv.engine import gate
from pocketkv.engine.commands import Route, find_command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.observability.metrics import Figures
from pocketkv.observability.process import ProcessSampler
from pocketkv.options import ConfigError
from pocketkv.release import Release
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import Reply
from pocketkv.scaling_rules import ScalingRules
from pocketkv.serving.shell import Ready, Shell, StartError, listen, serve

_NOT_LEADING: Final = b"ERR this controller does not lead: ask again, by the name of its Service"
# A leader that stood still while it labelled its pod may do so after another has begun.
_LABEL_INTERVAL_S: Final = 10.0
_POD_NAME: Final = "POD_NAME"


class StandbyHandler(RequestHandler):
    """A connection to a controller that does not lead."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request: what is for the leader is refused."""
        refusal = CommandError(_NOT_LEADING)
        if not request[0].upper().startswith(b"MEMBER."):
            try:
                if find_command(request).route is not Route.CONTROL:
                    return gate.run(self.session, request)
                gate.admit(self.session, request)
            except CommandError as error:
                refusal = error
        return gate.refuse(self.session, request, None, refusal)

    def on_close(self) -> None:
        """The connection is gone."""
        self.session.node.close_session(self.session)


class Replica:
    """A controller among others.

    Args:
        config: How it is to run.
        place: Where its release is.
        api: Of the cluster.
        node: Its state as the engine's commands see it.
        catalog: What servers cost and can do.
        log: The process's log.
        pod_name: Its own pod's, if it runs in one.
        on_ready: Called when it serves; it need not lead.
        times: Of the lease.
    """

    def __init__(
        self,
        config: ControllerConfig,
        place: Release,
        api: Api,
        node: Node,
        catalog: Catalog,
        log: logging.Logger,
        pod_name: str = "",
        on_ready: Callable[[Ready], None] = lambda ready: None,
        times: LeaseTimes | None = None,
    ) -> None:
        self.node = node
        self.core: Core | None = None
        self._config = config
        self._place = place
        self._api = api
        self._catalog = catalog
        self._log = log
        self._pod_name = pod_name
        self._on_ready = on_ready
        self._administration: Administration | None = None
        self._door = Door(api)
        labels = {pods.NAME_LABEL: "pocketkv", pods.INSTANCE_LABEL: place.name}
        self._labels = {**labels, pods.COMPONENT_LABEL: pods.CONTROLLER}
        # With threads of its own: no other request may keep the lease from being renewed.
        self._candidate = Candidate(
            Door(api),
            f"{place.name}-controller",
            pod_name or f"{socket.gethostname()}-{secrets.token_hex(4)}",
            times or LeaseTimes(),
            self._labels,
            log,
        )

    def handler_of(self, session: Session) -> RequestHandler:
        """Return the handler of a new connection."""
        if self.core is None or self._administration is None:
            return StandbyHandler(session)
        return ControllerHandler(session, self.core, self._administration)

    def prepare(self, shell: Shell) -> None:
        """Be called when the port is known and nothing runs yet."""
        shell.metrics.sources.append(self._figures)

    def _figures(self) -> Iterator[Figures]:
        if self.core is None:
            yield Figures(LEADING).add(0)
        else:
            yield from figures(self.core)

    async def run(self, shell: Shell) -> None:
        """Lead whenever that may be, until cancelled."""
        assert shell.endpoint is not None  # set before background tasks start
        self._on_ready(shell.endpoint)
        endpoint = (shell.endpoint.host, shell.endpoint.port)
        backoff = Backoff()
        while True:
            try:
                await self._candidate.lead(lambda: self._lead(endpoint))
                backoff.reset()
            except* (StartError, StoreError, ApiError) as errors:
                for error in _plain(errors):
                    self._log.error("leading has ended", extra={"error": str(error)})
                await trio.sleep(backoff.next_s())

    async def _lead(self, endpoint: tuple[str, int]) -> None:
        owners = self._candidate.owners = await self._owners()
        store = KubernetesStore(self._api, self._place.name, self._labels, owners)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_close_at_end, store)
                snapshot = await trio.to_thread.run_sync(store.read)
                sets = await read_sets(self._door, self._place.name)
                backend = KubernetesBackend(
                    self._door, self._place.name, sets, self._price, self._log
                )
                config = replace(self._config, scaling=self._rules(backend))
                core = make_core(
                    config, self._log, store, self._catalog, backend, self.node.topology, snapshot
                )
                for server_id in core.state.fleet.expected():
                    backend.watch(server_id, 0)
                await nursery.start(core.run, endpoint)
                self._begin(core)
                jobs = PocketJobs(self._door, self._place.name, core, self.node.secret, self._log)
                nursery.start_soon(self._mark_leader)
                nursery.start_soon(jobs.run)
        except ConfigError as error:
            raise StartError(str(error)) from error
        finally:
            self._end()

    async def _owners(self) -> list[Document]:
        """Return what the lease and the state belong to, if the release has such an object."""
        path = path_of("api/v1", self._door.namespace, "configmaps", f"{self._place.name}-release")
        try:
            one = await self._door.request("GET", path)
        except NotFoundError:
            return []
        metadata = one["metadata"]
        reference = {"name": metadata["name"], "uid": metadata["uid"]}
        return [{"apiVersion": "v1", "kind": "ConfigMap", **reference}]

    def _begin(self, core: Core) -> None:
        self._administration = Administration(
            core, self.node.secret, is_closed=bool(self.node.admin_password)
        )
        self.core = core

    def _end(self) -> None:
        """Be no controller any more: members look for the next one."""
        core, self.core, self._administration = self.core, None, None
        if core is not None:
            for link in list(core.links.values()):
                link.connection.drop()

    def _price(self, tier: str, machine_type: str) -> float:
        offered = self._catalog.tier(tier)
        return offered.machine_or_reference(machine_type).server_price_per_hour

    def _rules(self, backend: KubernetesBackend) -> ScalingRules | None:
        """Return how far tiers may be scaled: as told, or else by the StatefulSets' limits."""
        rules = self._config.scaling
        if rules is not None and rules.tiers:
            return rules
        ranges = backend.ranges
        if not ranges:
            return rules
        return replace(rules or ScalingRules(), tiers=ranges)

    async def _mark_leader(self) -> None:
        """Have the Service lead here, and nowhere else, whatever others do to the labels."""
        if not self._pod_name:
            return
        path = path_of("api/v1", self._door.namespace, "pods")
        selector = f"{pods.selector(self._place.name, pods.CONTROLLER)},{pods.LEADER_LABEL}=true"
        backoff = Backoff()
        while True:
            try:
                # Which changes nothing if it is there, and then nobody is told.
                await self._label(self._pod_name, "true")
                found, _ = await self._door.list(path, selector)
                for one in found:
                    name = str(one["metadata"]["name"])
                    if name != self._pod_name:
                        await self._label(name, None)
                backoff.reset()
                await trio.sleep(_LABEL_INTERVAL_S)
            except ApiError as error:
                self._log.warning("the leader's pod is not labelled", extra={"error": str(error)})
                await trio.sleep(backoff.next_s(error.retry_after_s))

    async def _label(self, pod: str, text: str | None) -> None:
        path = path_of("api/v1", self._door.namespace, "pods", pod)
        body = {"metadata": {"labels": {pods.LEADER_LABEL: text}}}
        await self._door.request("PATCH", path, body, content_type=MERGE_PATCH)


async def _close_at_end(store: KubernetesStore) -> None:
    """Have a write that is under way fail when the lease is lost: it would never end otherwise."""
    try:
        await trio.sleep_forever()
    finally:
        store.close()


def _plain(error: BaseException) -> Iterator[BaseException]:
    """Yield the plain exceptions of a group."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _plain(one)
    else:
        yield error


async def run_replica(
    config: ControllerConfig,
    log: logging.Logger,
    on_ready: Callable[[Ready], None] = lambda ready: None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Run a controller among others until it is told to stop.

    Raises:
        StartError: It cannot start.
    """
    assert config.release is not None  # Or it would be no replica.
    try:
        catalog = load_catalog(None if config.catalog is None else str(config.catalog))
        api = Api.connected(config.release.namespace)
    except (CatalogError, NoClusterError) as error:
        raise StartError(str(error)) from error
    try:
        replica = Replica(
            config,
            config.release,
            api,
            make_node(config),
            catalog,
            log,
            environ.get(_POD_NAME, ""),
            on_ready,
        )
        await serve(
            replica.node,
            listen(config.host, config.port),
            handler_of=replica.handler_of,
            log=log,
            sampler=ProcessSampler(),
            metrics_port=config.metrics_port,
            background=[replica.run],
            configure=replica.prepare,
        )
    finally:
        api.close()
