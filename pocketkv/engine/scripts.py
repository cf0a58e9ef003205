"""One job's scripts: what is loaded, and how one is executed.

Each job has an interpreter of its own, made with its first script, and gone with the job. A
script's commands come from a session of its own, so that what a script does to its connection
(SELECT, the protocol) is no business of the client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.engine.long_runs import BUSY_FUNCTION, BUSY_SCRIPT, LongRun, run_sliced
from pocketkv.engine.node import REDIS_VERSION
from pocketkv.engine.script_calls import ScriptCalls
from pocketkv.engine.script_flags import Flags, parse_shebang
from pocketkv.lua.interpreter import Encoded as EncodedByScript
from pocketkv.lua.interpreter import Interpreter, ScriptError
from pocketkv.resp.replies import Encoded, Reply

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
_INT64_MIN: Final = -(2**63)


class Script:
    """A script that is loaded.

    Attributes:
        code: Its text.
        body: What the interpreter made of it.
        flags: What its first line says.
        is_kept: Whether it stays until SCRIPT FLUSH.
    """

    __slots__ = ("body", "code", "flags", "is_kept", "sha")

    def __init__(self, sha: bytes, code: bytes, body: Any, flags: Flags) -> None:
        self.sha = sha
        self.code = code
        self.body = body
        self.flags = flags
        self.is_kept = False


class Run:
    """A script or function that is executed now.

    Attributes:
        name: The script's SHA1, or the function's name.
        request: What its client sent.
        is_function: Whether it is a function.
        long_run: How it takes turns with others; ``None`` for a library that is being loaded.
    """

    __slots__ = ("is_function", "long_run", "name", "request")

    def __init__(
        self, name: bytes, request: list[bytes], long_run: LongRun, *, is_function: bool
    ) -> None:
        self.name = name
        self.request = request
        self.long_run = long_run
        self.is_function = is_function


class Scripts:
    """The scripts and functions of one job on this node."""

    __slots__ = (
        "_from_eval",
        "_interpreter",
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
        self._from_eval: dict[bytes, None] = {}
        self.run: Run | None = None
        self.calls = ScriptCalls(self, node, space)
        self._interpreter: Interpreter | None = None
        self.libraries: Libraries | None = None
        # Goes up with each change of what SCRIPT LOAD has loaded.
        self.version = 0

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter, made when it is first needed."""
        if self._interpreter is None:
            self._interpreter = Interpreter(self.calls, REDIS_VERSION)
            self.calls.table = self._interpreter.table
        return self._interpreter

    @property
    def used_bytes(self) -> int:
        """Memory of the interpreter."""
        return 0 if self._interpreter is None else self._interpreter.used_bytes

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
            del self._from_eval[script.sha]
            self._from_eval[script.sha] = None
        return script

    def load(self, code: bytes, *, is_kept: bool) -> Script:
        """The script of a text, compiled if it is new.

        Raises:
            CommandError: It cannot be compiled.
        """
        sha = hashlib.sha1(code).hexdigest().encode()
        script = self.known.get(sha)
        if script is None:
            flags, compiled = parse_shebang(code)
            try:
                body = self.interpreter.compile(compiled)
            except ScriptError as error:
                text = b"ERR Error compiling script (new function): " + error.text
                raise CommandError(text) from None
            script = self.known[sha] = Script(sha, code, body, flags)
            self._from_eval[sha] = None
        if is_kept and not script.is_kept:
            script.is_kept = True
            self.version += 1
            del self._from_eval[sha]
        elif not script.is_kept:
            del self._from_eval[sha]
            self._from_eval[sha] = None
            if len(self._from_eval) > limits.SCRIPTS_FROM_EVAL_MAX:
                oldest = next(iter(self._from_eval))
                del self._from_eval[oldest], self.known[oldest]
        return script

    def flush(self) -> None:
        """Forget all scripts; functions stay."""
        self.version += 1
        self.known.clear()
        self._from_eval.clear()
        if self._interpreter is not None and self.libraries is None:
            # With it goes whatever they left behind.
            self._interpreter = None

    # --- execution -----------------------------------------------------------------------------

    def eval(
        self, session: Session, request: list[bytes], script: Script, *, reads_only: bool
    ) -> Reply:
        """Execute a script for a client.

        Raises:
            CommandError: It failed, or is not to be executed.
        """
        body = script.body
        run = self.interpreter.run
        return self._execute(
            session, request, script.sha, script.flags, run, body, reads_only, is_function=False
        )

    def fcall(
        self,
        session: Session,
        request: list[bytes],
        name: bytes,
        body: Any,
        flags: Flags,
        *,
        reads_only: bool,
    ) -> Reply:
        """Execute a function for a client; as `eval`."""
        call = self.interpreter.call
        return self._execute(
            session, request, name, flags, call, body, reads_only, is_function=True
        )

    def _execute(
        self,
        session: Session,
        request: list[bytes],
        name: bytes,
        flags: Flags,
        run: Callable[[Any, int, list[bytes], list[bytes]], Any],
        body: Any,
        reads_only: bool,
        *,
        is_function: bool,
    ) -> Reply:
        keys_end = 3 + int(request[2])
        if flags.is_declared:
            self._check_flags(flags, reads_only=reads_only)
        protocol = session.protocol
        keys, arguments = request[3:keys_end], request[keys_end:]

        def work() -> Reply:
            self.calls.begin(session, flags, reads_only=reads_only or flags.no_writes)
            try:
                return _reply(run(body, protocol, keys, arguments))
            except ScriptError as error:
                raise CommandError(self._failure(error, name)) from None
            finally:
                self.run = None
                self.calls.raise_defect()

        outer = session.long_run
        long_run = outer
        if long_run is None:
            busy_text = BUSY_FUNCTION if is_function else BUSY_SCRIPT
            long_run = LongRun(session, request, busy_text)
        self.run = Run(name, request, long_run, is_function=is_function)
        return work() if outer is not None else run_sliced(long_run, work)

    def _check_flags(self, flags: Flags, *, reads_only: bool) -> None:
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
        if not flags.allow_oom and self.space.refuses_write(0):
            raise CommandError(_NO_OOM_FLAG)

    def _failure(self, error: ScriptError, name: bytes) -> bytes:
        if not error.where:
            return error.text
        return b"%b script: %b, on %b." % (error.text, name, error.where)

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


def _reply(value: Any) -> Reply:
    """The reply that a script's answer is."""
    if type(value) is bytes or value is None:
        return value
    if isinstance(value, EncodedByScript):
        return Encoded(value.raw)
    if type(value) is float:
        # As C converts what is no 64-bit integer.
        in_range = -(2.0**63) <= value < 2.0**63
        return int(value) if in_range else _INT64_MIN
    return value if _INT64_MIN <= value < 2**63 else _INT64_MIN
