"""What a client has of its own at the storage servers: lanes, what it watches, what it tracks.

CLIENT TRACKING is the engine's, here as on a storage server: it knows what is in force for the
client and who is told. While it is on, all of the client's requests take lanes of its own, on which
the servers track what it reads and tell what has changed, between the replies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.pubsub import all_of
from pocketkv.resp.replies import Reply, Simple
from pocketkv.router.private_lane import PrivateBinding
from pocketkv.router.transactions import unwatch
from pocketkv.router.wire import push_items

if TYPE_CHECKING:
    from pocketkv.engine.session import Session
    from pocketkv.engine.tracking import TrackingClient
    from pocketkv.resp.client_connection import ClientConnection
    from pocketkv.router.exchange import Asker


class OwnLanes:
    """Those of one client.

    Attributes:
        binding: Its lanes, once it has needed any in its job.
    """

    __slots__ = ("_client", "_connection", "_shows", "_tracking", "binding")

    def __init__(self, client: Asker, connection: ClientConnection) -> None:
        self._client = client
        self._connection = connection
        # What was in force when it was last looked at.
        self._tracking: list[bytes] | None = None
        # Whether the client is shown what scripts call.
        self._shows = False
        self.binding: PrivateBinding | None = None

    @property
    def are_for_all(self) -> bool:
        """Whether all of the client's requests take them."""
        return self._tracking is not None

    def private(self) -> PrivateBinding:
        """The client's lanes in the job that it is in."""
        session = self._client.session
        binding = self.binding
        if binding is None or binding.key[0] != session.job_id:
            self.close()
            key = (session.job_id, session.db.index, session.protocol, -session.id)
            binding = self.binding = PrivateBinding(self._client, key)
        return binding

    def follow(self, session: Session, *, unwatches: bool) -> bool:
        """See to what a command has changed that was executed at the router.

        Args:
            session: The client.
            unwatches: Whether it watches nothing since then.

        Returns:
            Whether the client's next requests take other lanes than those before.
        """
        binding = self.binding
        if binding is not None:
            if session.last_command == "reset" or session.job_id != binding.key[0]:
                self.close()
            elif unwatches:
                unwatch(binding)
        if session.monitoring and not self._shows:
            self._shows = True
            self._open_for_good()
            return True
        if session.tracking is None and self._tracking is None:
            return False
        wanted = None if session.tracking is None else _request(session.tracking)
        if wanted == self._tracking and not (wanted and self.binding is None):
            return False
        binding = self.private()
        self._tracking = wanted
        binding.tracking = wanted
        binding.tracking_changes += 1
        broadcasting = self._client.router.broadcasting
        if session.tracking is not None and session.tracking.broadcast:
            # Nobody asks there before something is told.
            self._open_for_good()
        elif not self._shows:
            broadcasting.pop(self, None)
        if wanted is None:
            for lane in binding.own():
                lane.follow()
        return True

    def _open_for_good(self) -> None:
        self._client.router.broadcasting[self] = None
        self.open_all()

    def open_all(self) -> None:
        """Have a lane to each of the job's servers: any of them may have something to tell."""
        router = self._client.router
        binding = self.private()
        for upstream in router.view(binding.key[0]).known_owners():
            lane = binding.lanes.get(upstream)
            if (lane is None or lane.closed) and upstream.is_open:
                try:
                    router.open_lane(upstream, binding)
                except OSError as error:
                    upstream.suspend(error.strerror or str(error))
        for own in binding.own():
            own.follow()

    def settled(self, reply: Reply) -> Reply:
        """The reply to a command, once all servers know what it has changed."""
        if self.binding is None or self not in self._client.router.broadcasting:
            return reply
        return all_of([lane.set_up(b"PING") for lane in self.binding.own()], reply)

    def pushed(self, frame: bytes) -> None:
        """A server has told of keys that have changed, or shows what a script calls.

        Raises:
            ProtocolError: It has told something else.
        """
        items = push_items(frame)
        if items[0] == b"invalidate":
            keys = [key for key in items[1:] if key is not None]
            self._tell(None if None in items else keys)
        elif items[0] == b"monitor" and len(items) == 2 and items[1] is not None:
            self._connection.push(Simple(items[1]))

    def lost(self) -> None:
        """A server has forgotten what the client has read: whatever it has may be out of date."""
        self._tell(None)

    def _tell(self, keys: list[bytes] | None) -> None:
        session = self._client.session
        if session.tracking is None:
            return
        message, receiver = session.tracking.message(keys)
        if receiver is session:
            # It must not overtake the reply that has brought an older value.
            self._connection.push_behind(message)
        elif receiver is not None:
            receiver.transport.push(message)

    def close(self) -> None:
        """Close them, and have the servers forget the client."""
        self._client.router.broadcasting.pop(self, None)
        self._tracking = None
        self._shows = False
        if self.binding is not None:
            binding, self.binding = self.binding, None
            binding.close()


def _request(tracking: TrackingClient) -> list[bytes]:
    """What has a server track for a client; whom it tells, is known here."""
    request = [b"CLIENT", b"TRACKING", b"ON"]
    if tracking.broadcast:
        request.append(b"BCAST")
    if tracking.opt_in:
        request.append(b"OPTIN")
    if tracking.opt_out:
        request.append(b"OPTOUT")
    if tracking.no_loop:
        request.append(b"NOLOOP")
    for prefix in tracking.prefixes:
        request += [b"PREFIX", prefix]
    return request
