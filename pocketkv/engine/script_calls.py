"""What scripts ask of the server: `redis.call` and its like, from Lua's values and back.

The methods that Lua calls never raise (see `lua.interpreter.Host`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.calling import call
from pocketkv.engine.cold import NotResident
from pocketkv.engine.commands import COMMANDS, Command
from pocketkv.engine.errors import OUT_OF_MEMORY, SLOTS_HELD, CommandError
from pocketkv.engine.gate import check_memory, check_slots, check_writable
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.moving import Held
from pocketkv.engine.script_replies import parsed
from pocketkv.engine.session import Session
from pocketkv.engine.sinks import ExtentSinks
from pocketkv.engine.spilling import NoRoom
from pocketkv.engine.users import Denied
from pocketkv.resp.encoder import Outbox, format_double
from pocketkv.resp.replies import (
    NULL_ARRAY,
    Deferred,
    Encoded,
    ErrorReply,
    FileBulk,
    Push,
    Reply,
    SetReply,
    Simple,
    Verbatim,
)

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.long_runs import LongRun
    from pocketkv.engine.node import Node
    from pocketkv.engine.tracking import TrackingClient
    from pocketkv.engine.users import User
    from pocketkv.resp.handler import RequestHandler

_NO_ARGUMENTS: Final = b"ERR Please specify at least one argument for this redis lib call"
_BAD_ARGUMENTS: Final = b"ERR Lua redis lib command arguments must be strings or integers"
_UNKNOWN: Final = b"ERR Unknown Redis command called from script"
_WRONG_ARITY: Final = b"ERR Wrong number of args calling Redis command from script"
_NOT_ALLOWED: Final = b"ERR This Redis command is not allowed from script"
# What Redis might send to its replicas counts as writing.
_MAY_REPLICATE: Final = frozenset(("pfcount", "publish", "spublish"))
_READS_ONLY: Final = b"ERR Write commands are not allowed from read-only scripts."
_NOT_LOCAL: Final = b"ERR Script attempted to access a non local key in a cluster node"
_NO_ANSWER: Final = b"ERR this command cannot be waited for in a script"
_TOO_LARGE: Final = b"ERR the reply is too large for a script"
_DEFECT: Final = b"ERR internal error"
_NO_ACL_ARGUMENTS: Final = (
    b"ERR Please specify at least one argument for this redis.acl_check_cmd() call"
)
_INVALID_COMMAND: Final = b"ERR Invalid command passed to redis.acl_check_cmd()"
_DENIED: Final = {
    Denied.COMMAND: b"ERR The user executing the script can't run this command or subcommand",
    Denied.KEY: (
        b"ERR The user executing the script can't access at least one of the keys mentioned in "
        b"the command arguments"
    ),
    Denied.CHANNEL: (
        b"ERR The user executing the script can't publish to the channel mentioned in the command"
    ),
}
_LOAD_TIMEOUT: Final = b"ERR FUNCTION LOAD timeout"
_TABLE: Final = COMMANDS
_EXACT_MAX: Final = 10**17
# What an item of a reply takes in Lua beside its bytes.
_ITEM_BYTES: Final = 64


class _NoTransport:
    """A connection that is none: what is pushed to a script goes nowhere."""

    def __init__(self) -> None:
        self.fd = -1
        self.outbox = Outbox()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.input_bytes = 0

    def push(self, reply: Reply) -> None:
        """Nobody is there."""

    def hand_over(self, handler: RequestHandler) -> None:
        """Nobody is there."""

    def restrict_input(self) -> None:
        """Nothing comes in."""

    def unrestrict_input(self, bulk_bytes_max: int, request_bytes_max: int) -> None:
        """Nothing comes in."""

    def limit_pushes(self, unread_bytes_max: int) -> None:
        """Nothing goes out."""

    def is_left(self) -> bool:
        """Nobody was there."""
        return True

    def close_when_sent(self) -> None:
        """There is nothing to close."""

    def close(self) -> None:
        """There is nothing to close."""


class ScriptCalls:
    """The server, for one job's scripts.

    Attributes:
        long_run: How the script that runs takes turns with others; ``None``: none runs.
        has_written: Whether it has executed a write.
        defect: What went wrong in the server itself.
        table: Makes a table of Lua of a list or a dict.
    """

    __slots__ = (
        "_allows_oom",
        "_node",
        "_outbox",
        "_reads_only",
        "_session",
        "_sinks",
        "_space",
        "_tracking",
        "_user",
        "defect",
        "has_written",
        "load_until_ns",
        "long_run",
        "registry",
        "table",
    )

    def __init__(self, node: Node, space: JobSpace) -> None:
        self._node = node
        self._space = space
        transport = _NoTransport()
        # Has the version of the protocol in which the script is answered.
        self._outbox = transport.outbox
        self._session = Session(node, 0, transport, "", "")
        self._session.authenticated = True
        self._session.denies_blocking = True
        self._session.in_script = True
        self._tracking: TrackingClient | None = None
        self._user: User | None = None
        self._session.enter_job(space.job_id)
        self._sinks = ExtentSinks(self._session)
        self._reads_only = False
        self._allows_oom = False
        self.long_run: LongRun | None = None
        self.has_written = False
        self.defect: Exception | None = None
        self.table: Any = None
        # Takes what a library registers, while one is loaded.
        self.registry: Any = None
        self.load_until_ns = 0

    def begin(self, session: Session, allows_oom: bool, reads_only: bool) -> None:
        """A script begins, for this client."""
        own = self._session
        own.space = session.space
        own.db = session.db
        own.admin = session.admin
        own.proxied = session.proxied
        own.address = session.address
        self._user = session.user
        self._tracking = session.tracking
        own.name = session.name
        self._outbox.protocol = 2
        self._reads_only = reads_only
        self._allows_oom = allows_oom
        self.has_written = False

    def raise_defect(self) -> None:
        """Raise what went wrong in the server while a script was executed."""
        if self.defect is not None:
            defect, self.defect = self.defect, None
            raise defect

    # --- what Lua calls ------------------------------------------------------------------------

    def tick(self) -> bytes | None:
        """As `Host.tick`."""
        long_run = self.long_run
        if long_run is None:
            if self.load_until_ns and self._node.stopwatch.now_ns() > self.load_until_ns:
                return _LOAD_TIMEOUT
            return None
        if long_run.kill_text is None:
            long_run.rest()
        return long_run.kill_text

    def invoke(self, *arguments: Any) -> Any:
        """As `Host.invoke`."""
        return self.invoke_list(list(arguments))

    def invoke_list(self, request: list[Any]) -> Any:
        """As `Host.invoke_list`."""
        try:
            return self._invoke(request)
        except CommandError as error:
            return None, error.text
        except Exception as error:  # noqa: BLE001 - it is raised again after the script
            return None, self._stop(error)

    def invoke_many(self, arguments: Any, count: int) -> Any:
        """As `Host.invoke_many`."""
        return self.invoke_list([arguments[i] for i in range(1, count + 1)])

    def setresp(self, version: int) -> None:
        """As `Host.setresp`."""
        self._outbox.protocol = version

    def acl_check_cmd(self, *arguments: Any) -> Any:
        """As `Host.acl_check_cmd`."""
        request = _texts(list(arguments))
        if request is None:
            return None, _BAD_ARGUMENTS
        if not request:
            return None, _NO_ACL_ARGUMENTS
        command = _find(request)
        if command is None:
            return None, _INVALID_COMMAND
        return self._user is None or self._user.denial(command, request)[0] is Denied.NO

    def log(self, level: int, text: bytes) -> None:
        """As `Host.log`."""
        if self._node.script_log is not None:
            self._node.script_log(self._space.job_id, int(level), text)

    def register(self, name: bytes, body: Any, description: bytes | None, flags: bytes) -> Any:
        """As `Host.register`."""
        try:
            self.registry(name, body, description, flags.split())
        except CommandError as error:
            return error.text
        return None

    # --- commands ------------------------------------------------------------------------------

    def _stop(self, error: Exception) -> bytes:
        """Have a script end in which a defect was met."""
        self.defect = error
        if self.long_run is not None:
            self.long_run.kill(_DEFECT)
        return _DEFECT

    def _invoke(self, request: list[Any]) -> Any:
        for argument in request:
            if type(argument) is not bytes:
                texts = _texts(request)
                if texts is None:
                    return None, _BAD_ARGUMENTS
                request = texts
                break
        if not request:
            return None, _NO_ARGUMENTS
        command = _find(request)
        if command is None:
            return None, _UNKNOWN
        if not command.arity_min <= len(request) <= command.arity_max:
            self._node.record_refusal(ErrorReply(_WRONG_ARITY), command)
            return None, _WRONG_ARITY, None, True
        refusal = self._refusal(command, request)
        if refusal is not None:
            self._node.record_refusal(ErrorReply(refusal), command)
            return None, refusal, None, True
        reply = call(self._session, command, request)
        if self._tracking is not None:
            self._tracking.remember(command, request)
        if type(reply) is bytes:
            if len(reply) > limits.SCRIPT_REPLY_BYTES_MAX:
                return None, _TOO_LARGE
            return reply
        if type(reply) is int:
            return reply
        if type(reply) is Simple:
            return None, None, reply.text
        if isinstance(reply, ErrorReply):
            return None, reply.text, None, True
        if _size(reply) > limits.SCRIPT_REPLY_BYTES_MAX:
            return None, _TOO_LARGE
        return self._value(reply)

    def _refusal(self, command: Command, request: list[bytes]) -> bytes | None:
        """Why a script may not execute a command now."""
        if command.no_script and not self._node.settings.scripts_may_all:
            return _NOT_ALLOWED
        if self._user is not None:
            reason, what = self._user.denial(command, request)
            if reason is not Denied.NO:
                self._user.note(self._session, reason, what)
                return _DENIED[reason]
            try:
                self._user.check_patterns(command, request)
            except CommandError as error:
                return error.text
        if self._reads_only and (command.is_write or command.name in _MAY_REPLICATE):
            return _READS_ONLY
        if command.is_local:
            return None
        session = self._session
        try:
            if not session.space.owns_all:
                check_slots(session, command, request)
            if command.is_write:
                node = self._node
                if node.write_error is not None or node.lacks_replicas or session.space.read_only:
                    check_writable(session)
                if command.denies_oom:
                    self._check_memory(command, request)
                self.has_written = True
        except CommandError as error:
            text = error.text
            return _NOT_LOCAL if text.startswith((b"MOVED", b"CROSSSLOT")) else text
        except Held:
            return SLOTS_HELD
        except NotResident:
            return b"LOADING the keys of this job are not known here yet"
        except NoRoom:
            return OUT_OF_MEMORY
        return None

    def _check_memory(self, command: Command, request: list[bytes]) -> None:
        if command.value_at:
            self._move_large(command, request)
        try:
            check_memory(self._session, request)
        except CommandError:
            if not self._allows_oom or not self._is_little(request):
                raise

    def _is_little(self, request: list[bytes]) -> bool:
        """Whether it may be written though memory is used up, by a script that says it will."""
        space = self._space
        limit_bytes = self._node.memory_limit_bytes(space.job_id)
        grown_bytes = sum(map(len, request))
        return space.used_bytes + grown_bytes <= limit_bytes + limits.SCRIPT_OOM_BYTES

    def _move_large(self, command: Command, request: list[bytes]) -> None:
        """Have large values where a client's would be."""
        keyspace = self._node.keyspace
        if not keyspace.keeps_large:
            return
        for position, argument in enumerate(request):
            if len(argument) >= limits.EXTENT_BYTES_MIN and command.takes_large(position):
                request[position] = self._large(request[:position], argument)  # type: ignore[call-overload]

    def _large(self, before: list[bytes], argument: bytes) -> object:
        sink = self._sinks.open(before, len(argument))
        if sink is None:
            string = self._node.keyspace.new_string(self._space.job_id)
            assert string is not None  # The caller has looked.
            string.write(0, argument)
            return string
        at = 0
        while at < len(argument):
            with sink.writable() as view:
                count = min(len(view), len(argument) - at)
                view[:count] = argument[at : at + count]
            sink.wrote(count)
            at += count
        return sink.finish()

    # --- replies -------------------------------------------------------------------------------

    def _value(self, reply: Reply) -> Any:
        """A reply as Lua's value; only small ones, and arrays."""
        if reply is None or reply is NULL_ARRAY:
            return None if self._outbox.protocol == 3 else False
        if isinstance(reply, list | tuple):
            return self.table([self._item(item) for item in reply])
        if type(reply) is dict:
            return self._map(reply, resp3=self._outbox.protocol == 3)
        return self._item(reply)

    def _item(self, reply: Reply) -> Any:
        """What stands for a reply in a table of Lua."""
        kind = type(reply)
        if kind is bytes or kind is int:
            return reply
        resp3 = self._outbox.protocol == 3
        if reply is None or reply is NULL_ARRAY:
            return None if resp3 else False
        if isinstance(reply, list | tuple):
            return self.table([self._item(item) for item in reply])
        if isinstance(reply, Simple):
            return self.table({b"ok": reply.text})
        if isinstance(reply, ErrorReply):
            return self.table({b"err": reply.text})
        if isinstance(reply, bool):
            return reply if resp3 else int(reply)
        if isinstance(reply, float):
            return self.table({b"double": reply}) if resp3 else format_double(reply)
        return self._rare(reply, resp3=resp3)

    def _rare(self, reply: Reply, *, resp3: bool) -> Any:
        """`_item`, of kinds that few commands answer."""
        if isinstance(reply, dict):
            return self._map(reply, resp3=resp3)
        if isinstance(reply, set | frozenset | SetReply):
            members = list(reply.members if isinstance(reply, SetReply) else reply)
            if resp3:
                return self.table({b"set": self.table({self._item(m): True for m in members})})
            return self.table([self._item(member) for member in members])
        if isinstance(reply, Verbatim):
            if not resp3:
                return reply.text
            parts = {b"string": reply.text, b"format": reply.form}
            return self.table({b"verbatim_string": self.table(parts)})
        if isinstance(reply, bytearray):
            return bytes(reply)
        if isinstance(reply, FileBulk):
            return b"".join([part.read() for part in reply.ranges])
        if isinstance(reply, Push):
            return self.table([self._item(item) for item in reply.items])
        if isinstance(reply, Deferred):
            return self._value(self._awaited(reply))
        if isinstance(reply, Encoded):
            return parsed(reply.raw, 0, self.table)[0]
        return int(reply)  # type: ignore[arg-type]  # a number of another class

    def _awaited(self, deferred: Deferred) -> Reply:
        """A reply that is still to come; other jobs are served meanwhile."""
        if self.long_run is None or not self.long_run.wait(deferred):
            raise CommandError(_NO_ANSWER)
        return deferred.reply

    def _map(self, reply: dict[Any, Reply], *, resp3: bool) -> Any:
        if resp3:
            items = {self._item(key): self._item(value) for key, value in reply.items()}
            return self.table({b"map": self.table(items)})
        flat: list[Any] = []
        for key, value in reply.items():
            flat += [self._item(key), self._item(value)]
        return self.table(flat)


def _find(request: list[bytes]) -> Command | None:
    """The record of a request, its subcommand's if it has one."""
    name = request[0]
    record = _TABLE.get(name)
    if record is None:
        record = _TABLE.get(name.upper())
        if record is None:
            return None
    if record.subcommands and len(request) > 1:
        return record.subcommands.get(request[1].upper())
    return record


def _texts(arguments: list[Any]) -> list[bytes] | None:
    """Arguments as a client would send them; ``None`` if one is no string and no number."""
    texts: list[bytes] = []
    for argument in arguments:
        if type(argument) is bytes:
            texts.append(argument)
        elif type(argument) is int:
            is_exact = -_EXACT_MAX < argument < _EXACT_MAX
            texts.append(b"%d" % argument if is_exact else b"%.17g" % argument)
        elif type(argument) is float:
            texts.append(format_double(argument))
        else:
            return None
    return texts


def _size(reply: Reply) -> int:
    """About what a reply takes in Lua."""
    if isinstance(reply, bytes | bytearray | LargeString):
        return len(reply)
    if isinstance(reply, FileBulk):
        return reply.size
    if isinstance(reply, dict):
        return sum(_size(key) + _size(value) + 2 * _ITEM_BYTES for key, value in reply.items())
    if isinstance(reply, SetReply):
        return sum(_size(member) + _ITEM_BYTES for member in reply.members)
    if isinstance(reply, list | tuple | set | frozenset):
        return sum(_size(item) + _ITEM_BYTES for item in reply)
    return len(reply.text) if isinstance(reply, Verbatim) else _ITEM_BYTES
