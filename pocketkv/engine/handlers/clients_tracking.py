"""CLIENT TRACKING and what belongs to it: clients that keep copies of what they have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import c_string, parse_int
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.handlers.clients import client_command
from pocketkv.engine.tracking import TrackingClient, tracking_of
from pocketkv.resp.replies import OK, Reply, SetReply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NOT_TRACKING: Final = (
    b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or "
    b"OPTOUT mode enabled"
)
_NO_OPT_IN: Final = b"ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
_NO_OPT_OUT: Final = b"ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
_ONE_REDIRECT: Final = b"ERR A client can only redirect to a single other client"
_NO_REDIRECT: Final = b"ERR The client ID you want redirect to does not exist"
_PREFIX_WITHOUT_BROADCAST: Final = b"ERR PREFIX option requires BCAST mode to be enabled"
_SWITCHED_BROADCAST: Final = (
    b"ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then "
    b"re-enabling it with a different mode."
)
_BROADCAST_AND_OPT: Final = b"ERR OPTIN and OPTOUT are not compatible with BCAST"
_BOTH_OPTS: Final = b"ERR You can't specify both OPTIN mode and OPTOUT mode"
_SWITCHED_OPT: Final = (
    b"ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then "
    b"re-enabling it with a different mode."
)


class _Options:
    """The options of CLIENT TRACKING.

    Raises:
        CommandError: Unknown, without a value, or of a bad value.
    """

    def __init__(self, session: Session, request: list[bytes]) -> None:
        self.redirect = 0
        self.prefixes: list[bytes] = []
        self.words: set[bytes] = set()
        i = 3
        while i < len(request):
            option = request[i].upper()
            if option == b"REDIRECT" and i + 1 < len(request):
                i += 1
                self._redirect_to(session, request[i])
            elif option == b"PREFIX" and i + 1 < len(request):
                i += 1
                self.prefixes.append(request[i])
            elif option in (b"BCAST", b"OPTIN", b"OPTOUT", b"NOLOOP"):
                self.words.add(option)
            else:
                raise CommandError(SYNTAX)
            i += 1

    def _redirect_to(self, session: Session, text: bytes) -> None:
        if self.redirect:
            raise CommandError(_ONE_REDIRECT)
        self.redirect = parse_int(text)
        other = session.node.sessions.get(self.redirect)
        if other is None or other.space is not session.space:
            raise CommandError(_NO_REDIRECT)

    def check(self, client: TrackingClient | None) -> None:
        """Refuse what does not go together, or with what is in force for the client.

        Raises:
            CommandError: As Redis says it, in Redis's order.
        """
        broadcast = b"BCAST" in self.words
        opt_in, opt_out = b"OPTIN" in self.words, b"OPTOUT" in self.words
        if self.prefixes and not broadcast:
            raise CommandError(_PREFIX_WITHOUT_BROADCAST)
        if client is not None and client.broadcast != broadcast:
            raise CommandError(_SWITCHED_BROADCAST)
        if broadcast and (opt_in or opt_out):
            raise CommandError(_BROADCAST_AND_OPT)
        if opt_in and opt_out:
            raise CommandError(_BOTH_OPTS)
        if client is not None and (client.opt_out if opt_in else opt_out and client.opt_in):
            raise CommandError(_SWITCHED_OPT)
        self._check_prefixes(list(client.prefixes) if client is not None else [])

    def _check_prefixes(self, known: list[bytes]) -> None:
        for number, prefix in enumerate(self.prefixes):
            for other in sorted(known):
                if _overlap(prefix, other):
                    raise _overlapping(prefix, b"an existing", other)
            for other in self.prefixes[number + 1 :]:
                if _overlap(prefix, other):
                    raise _overlapping(prefix, b"another provided", other)


def _overlap(prefix: bytes, other: bytes) -> bool:
    return prefix.startswith(other) or other.startswith(prefix)


def _overlapping(prefix: bytes, which: bytes, other: bytes) -> CommandError:
    return CommandError(
        b"ERR Prefix '%b' overlaps with %b prefix '%b'. "
        b"Prefixes for a single client must not overlap."
        % (c_string(prefix), which, c_string(other))
    )


@client_command(
    "TRACKING",
    -3,
    "Has the client told when keys change that it has read, so that it may keep copies.",
    "<ON | OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN]"
    " [OPTOUT] [NOLOOP]",
    since="6.0.0",
    complexity="O(1), and some for each key that is read",
)
def client_tracking(session: Session, request: list[bytes]) -> Reply:
    """OK; what was read before is forgotten with OFF."""
    options = _Options(session, request)
    word = request[2].upper()
    if word == b"ON":
        options.check(session.tracking)
        _turn_on(session, options)
    elif word != b"OFF":
        raise CommandError(SYNTAX)
    elif session.tracking is not None:
        session.tracking.stop()
    return OK


def _turn_on(session: Session, options: _Options) -> None:
    tracking = tracking_of(session)
    client = session.tracking
    if client is None:
        client = session.tracking = TrackingClient(tracking, session)
        tracking.add(client)
        session.update_guard()
    client.is_broken = False
    client.redirect = options.redirect
    client.broadcast = b"BCAST" in options.words
    client.opt_in = b"OPTIN" in options.words
    client.opt_out = b"OPTOUT" in options.words
    client.no_loop = b"NOLOOP" in options.words
    if client.broadcast:
        for prefix in options.prefixes or [b""]:
            tracking.add_prefix(client, prefix)


@client_command(
    "CACHING",
    3,
    "Which keys of the next command are tracked, with OPTIN or OPTOUT.",
    "<YES | NO>",
    since="6.0.0",
)
def client_caching(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    client = session.tracking
    if client is None:
        raise CommandError(_NOT_TRACKING)
    word = request[2].upper()
    if word == b"YES":
        if not client.opt_in:
            raise CommandError(_NO_OPT_IN)
    elif word != b"NO":
        raise CommandError(SYNTAX)
    elif not client.opt_out:
        raise CommandError(_NO_OPT_OUT)
    client.caching = True
    return OK


@client_command("GETREDIR", 2, "Who is told of keys that have changed.", since="6.0.0")
def client_getredir(session: Session, request: list[bytes]) -> Reply:
    """The id of a client; 0 is this one itself, and -1 nobody: it does not track."""
    return -1 if session.tracking is None else session.tracking.redirect


@client_command("TRACKINGINFO", 2, "How the client tracks keys that it reads.", since="6.2.0")
def client_trackinginfo(session: Session, request: list[bytes]) -> Reply:
    """A map: what is in force, who is told, and of which prefixes."""
    client = session.tracking
    if client is None:
        return {b"flags": SetReply([b"off"]), b"redirect": -1, b"prefixes": []}
    flags = [
        (b"on", True),
        (b"bcast", client.broadcast),
        (b"optin", client.opt_in),
        (b"caching-yes", client.opt_in and client.caching),
        (b"optout", client.opt_out),
        (b"caching-no", client.opt_out and client.caching),
        (b"noloop", client.no_loop),
        (b"broken_redirect", client.is_broken),
    ]
    return {
        b"flags": SetReply([name for name, is_set in flags if is_set]),
        b"redirect": client.redirect,
        b"prefixes": [*sorted(client.prefixes)],
    }
