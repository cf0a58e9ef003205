"""One job's scripts: what is loaded, and how one is executed.

Each job has an interpreter of its own, made with its first script, and gone with the job. A
script's commands come from a session of its own, so that what a script does to its connection
(SELECT, the protocol) is no business of the client.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.arguments import parse_int
from pocketkv.engine.errors import NO_REPLICAS, CommandError
from pocketkv.engine.long_runs import BUSY_FUNCTION, BUSY_SCRIPT, LongRun, run_sliced
from pocketkv.engine.node import REDIS_VERSION
from pocketkv.engine.script_calls import ScriptCalls
from pocketkv.engine.script_flags import Flags, parse_shebang
from pocketkv.lua.interpreter import OK_STATUS, Failure, Interpreter, ScriptError, Status
from pocketkv.lua.interpreter import Encoded as EncodedByScript
from pocketkv.lua.slices import Work
from pocketkv.resp.replies import OK, Encoded, Reply, ScriptErrorReply, Simple

if TYPE_CHECKING:
    from pocketkv.engine.functions import Libraries
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session

NO_SCRIPT: Final = b"NOSCRIPT No matching script. Please use EVAL."
_NOT_BUSY: Final = b"NOTBUSY No scripts in execution right now."
_UNKILLABLE: Final = (
    b"UNKILLABLE Sorry the script already executed write commands against the dataset. You can "
    b"either wait the script termination or kill the server in a hard way using the SHUTDOWN "
    b"NOSAVE command."
)
_KILLED_SCRIPT: Final = b"ERR Script killed by user with SCRIPT KILL."
_KILLED_FUNCTION: Final = b"ERR Function killed by user with FUNCTION KILL."
_ONLY_READS: Final = b"ERR Can not execute a script with write flag using *_ro command."
_NO_CLUSTER: Final = b"ERR Can not run script on cluster, 'no-cluster' flag is set."
_NO_OOM_FLAG: Final = (
    b"OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'"
)
_NOTHING: Final[list[bytes]] = []
_INT64_MIN: Final = -(2**63)


class Script:
    """A script that is loaded.

    Attributes:
        code: Its text.
        body: What the interpreter made of it.
        flags: What its first line says.
        is_declared: Whether its first line says anything.
        is_kept: Whether it stays until SCRIPT FLUSH.
    """

    __slots__ = ("body", "code", "flags", "is_declared", "is_kept", "sha")

    def __init__(self, sha: bytes, code: bytes, body: Any, flags: Flags) -> None:
        self.sha = sha
        self.code = code
        self.body = body
        self.flags = flags
        self.is_declared = flags.is_declared
        self.is_kept = False


class Run(Work):
    """A script or function that is executed for a client.

    Attributes:
        name: The script's SHA1, or the function's name.
        session: Its client's.
        request: What its client sent.
        is_function: Whether it is a function.
        long_run: How it takes turns with others.
    """

    __slots__ = (
        "_allows_oom",
        "_body",
        "_own_run",
        "_reads_only",
        "_scripts",
        "is_function",
        "long_run",
        "name",
        "request",
        "session",
    )

    def __init__(self, node: Node) -> None:
        # Its own; in a transaction it takes turns by that of the transaction.
        self._own_run = LongRun(node)
        self._scripts: Scripts | None = None
        self.session: Session | None = None
        self.request = _NOTHING
        self._body: Any = None

    def begin(
        self, scripts: Scripts, session: Session, request: list[bytes], name: bytes, body: Any
    ) -> None:
        """Say what is executed for whom; one that is over may begin again."""
        self._scripts = scripts
        self.session = session
        self.request = request
        self.name = name
        self._body = body
        self.is_function = False
        self._reads_only = False
        self._allows_oom = False
        long_run = session.long_run
        if long_run is None:
            long_run = self._own_run
        self.long_run = long_run

    def clear(self) -> None:
        """Keep nothing of what is over."""
        self._scripts = None
        self.session = None
        self.request = _NOTHING
        self._body = None

    def allow(self, flags: Flags, reads_only: bool) -> None:
        """Say what it may do; at first, it may write while there is memory."""
        self._reads_only = reads_only or flags.no_writes
        self._allows_oom = flags.allow_oom

    def do(self) -> object:
        """Execute it; its reply.

        Raises:
            Exception: What went wrong in the server itself.
        """
        scripts, session = self._scripts, self.session
        assert scripts is not None  # It has begun.
        assert session is not None  # As above.
        interpreter = scripts.interpreter()
        calls = scripts.calls
        given = self.request[3:]
        key_count = parse_int(self.request[2])
        protocol = session.protocol
        calls.begin(session, self._allows_oom, self._reads_only)
        calls.long_run = self.long_run
        reply: Reply
        try:
            if self.is_function:
                value = interpreter.call(self._body, protocol, given, key_count)
            else:
                value = interpreter.run(self._body, protocol, given, key_count)
            reply = _reply(value)
        except ScriptError as error:
            text = _failure(error, self.name)
            reply = ScriptErrorReply(text, is_counted=error.is_counted)
        finally:
            scripts.run = None
            calls.long_run = None
            calls.raise_defect()
        return reply


class Scripts:
    """The scripts and functions of one job on this node."""

    __slots__ = (
        "_by_code",
        "_from_eval",
        "_interpreter",
        "_last",
        "_spare",
        "calls",
        "known",
        "libraries",
        "node",
        "run",
        "space",
        "version",
    )

    def __init__(self, node: Node, space: JobSpace) -> None:
        self.node = node
        self.space = space
        self.known: dict[bytes, Script] = {}
        # Those of `known` that EVAL brought, the one that was used least lately first.
        self._from_eval: dict[bytes, Script] = {}
        self._by_code: dict[bytes, Script] = {}
        # The last one of them, if it was used since something else happened to them.
        self._last: Script | None = None
        # One that is over, to be used again.
        self._spare: Run | None = None
        self.run: Run | None = None
        self.calls = ScriptCalls(node, space)
        self._interpreter: Interpreter | None = None
        self.libraries: Libraries | None = None
        # Goes up with each change of what SCRIPT LOAD has loaded.
        self.version = 0

    def interpreter(self) -> Interpreter:
        """The interpreter, made when it is first needed."""
        if self._interpreter is None:
            self._interpreter = Interpreter(self.calls, REDIS_VERSION)
            self.calls.table = self._interpreter.table
        return self._interpreter

    @property
    def used_bytes(self) -> int:
        """Memory of the interpreter."""
        return 0 if self._interpreter is None else self._interpreter.used()

    # --- what is loaded ------------------------------------------------------------------------

    def find(self, sha: bytes) -> Script:
        """The script of a SHA1, in any case of letters.

        Raises:
            CommandError: NOSCRIPT.
        """
        script = self.known.get(sha)
        if script is None:
            script = self.known.get(sha.lower())
            if script is None:
                raise CommandError(NO_SCRIPT)
        if not script.is_kept:
            self._used(script)
        return script

    def load(self, code: bytes) -> Script:
        """The script of a text, compiled if it is new.

        Raises:
            CommandError: It cannot be compiled.
        """
        script = self._by_code.get(code)
        if script is None:
            script = self._compile(code)
        if not script.is_kept:
            self._used(script)
        return script

    def keep(self, code: bytes) -> Script:
        """`load`, until `flush`.

        Raises:
            CommandError: As `load`.
        """
        script = self._by_code.get(code)
        if script is None:
            script = self._compile(code)
        if not script.is_kept:
            script.is_kept = True
            self.version += 1
            del self._from_eval[script.sha]
        return script

    def _compile(self, code: bytes) -> Script:
        flags, compiled = parse_shebang(code)
        try:
            body = self.interpreter().compile(compiled)
        except ScriptError as error:
            text = b"ERR Error compiling script (new function): " + error.text
            raise CommandError(text) from None
        sha = hashlib.sha1(code).hexdigest().encode()
        script = Script(sha, code, body, flags)
        self.known[sha] = self._by_code[code] = self._from_eval[sha] = script
        return script

    def _used(self, script: Script) -> None:
        """Note that a script which EVAL brought was used last."""
        if self._last is not script:
            self._last = script
            del self._from_eval[script.sha]
            self._from_eval[script.sha] = script
            if len(self._from_eval) > limits.SCRIPTS_FROM_EVAL_MAX:
                oldest = self._from_eval.pop(next(iter(self._from_eval)))
                del self.known[oldest.sha], self._by_code[oldest.code]

    def flush(self) -> None:
        """Forget all scripts; functions stay."""
        self.version += 1
        self.known.clear()
        self._by_code.clear()
        self._from_eval.clear()
        self._last = None
        if self._interpreter is not None and self.libraries is None:
            # With it goes whatever they left behind.
            self._interpreter = None

    # --- execution -----------------------------------------------------------------------------

    def eval(
        self, session: Session, request: list[bytes], script: Script, reads_only: bool
    ) -> Reply:
        """Execute a script for a client; `request` has a number of keys that is right.

        Raises:
            CommandError: It is not to be executed.
        """
        run = self._begin(session, request, script.sha, script.body)
        flags = script.flags
        if script.is_declared:
            self._check_flags(flags, reads_only)
            run.allow(flags, reads_only)
        elif reads_only:
            run.allow(flags, reads_only)
        return self._execute(run, session, request, BUSY_SCRIPT)

    def fcall(
        self,
        session: Session,
        request: list[bytes],
        name: bytes,
        body: Any,
        flags: Flags,
        reads_only: bool,
    ) -> Reply:
        """Execute a function for a client; as `eval`."""
        run = self._begin(session, request, name, body)
        run.is_function = True
        self._check_flags(flags, reads_only)
        run.allow(flags, reads_only)
        return self._execute(run, session, request, BUSY_FUNCTION)

    def _begin(self, session: Session, request: list[bytes], name: bytes, body: Any) -> Run:
        run = self._spare
        self._spare = None
        if run is None:
            run = Run(self.node)
        run.begin(self, session, request, name, body)
        return run

    def _execute(self, run: Run, session: Session, request: list[bytes], busy_text: bytes) -> Reply:
        self.run = run
        long_run = run.long_run
        if long_run.worker is not None:
            # In a transaction, which takes turns as a whole.
            return run.do()  # type: ignore[return-value]
        reply = run_sliced(long_run, run, session, request, busy_text)
        if long_run.worker is None:
            run.clear()
            self._spare = run
        return reply

    def _check_flags(self, flags: Flags, reads_only: bool) -> None:
        """Refuse a script that says what it needs, and cannot have it.

        Raises:
            CommandError: With the reason.
        """
        if flags.no_cluster and self.node.clustered:
            raise CommandError(_NO_CLUSTER)
        if flags.no_writes:
            return
        if reads_only:
            raise CommandError(_ONLY_READS)
        if self.node.lacks_replicas:
            raise CommandError(NO_REPLICAS)
        if not flags.allow_oom and self.space.refuses_write(0):
            raise CommandError(_NO_OOM_FLAG)

    # --- the end of it -------------------------------------------------------------------------

    def kill(self, *, is_function: bool) -> None:
        """SCRIPT KILL and FUNCTION KILL.

        Raises:
            CommandError: Nothing is executed, or it has changed something.
        """
        run = self.run
        if run is None:
            raise CommandError(_NOT_BUSY)
        if self.calls.has_written:
            raise CommandError(_UNKILLABLE)
        if run.is_function is not is_function:
            raise CommandError(BUSY_FUNCTION if run.is_function else BUSY_SCRIPT)
        run.long_run.kill(_KILLED_FUNCTION if is_function else _KILLED_SCRIPT)


def scripts_of(session: Session) -> Scripts:
    """The scripts of a client's job."""
    space = session.space
    if space.scripts is None:
        space.scripts = Scripts(session.node, space)
    return space.scripts


def _failure(error: ScriptError, name: bytes) -> bytes:
    if not error.where:
        return error.text
    return b"%b script: %b, on %b." % (error.text, name, error.where)


def _reply(value: Any) -> Reply:
    """The reply that a script's answer is."""
    if type(value) is bytes or value is None:
        return value
    if value is OK_STATUS:
        return OK
    if isinstance(value, Status):
        text = value.text
        # It may hold what would end the line.
        return Simple(text.replace(b"\r", b" ").replace(b"\n", b" "))
    if isinstance(value, Failure):
        return ScriptErrorReply(value.text, is_counted=value.is_counted)
    if isinstance(value, EncodedByScript):
        return Encoded(value.raw)
    if type(value) is float:
        # As C converts what is no 64-bit integer.
        in_range = -(2.0**63) <= value < 2.0**63
        return int(value) if in_range else _INT64_MIN
    return value if _INT64_MIN <= value < 2**63 else _INT64_MIN
