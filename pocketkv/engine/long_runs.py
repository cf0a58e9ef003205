"""Scripts, and transactions with scripts, that take long: they are executed in slices.

While one is left in the middle, clients of other jobs are served; those of the same job wait, as
nothing of theirs may come in between. When it has taken longer than `busy-reply-threshold`, they
are told -BUSY instead, but for what ends the script. The clock stands still for the script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.engine.gate import refuse
from pocketkv.engine.pauses import complete_with
from pocketkv.resp.replies import Deferred, ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command
    from pocketkv.engine.node import Node
    from pocketkv.engine.pauses import Resume
    from pocketkv.engine.session import Session
    from pocketkv.lua.slices import Work, Worker

BUSY_SCRIPT: Final = (
    b"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
)
BUSY_FUNCTION: Final = (
    b"BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE."
)
_DEFECT: Final = ErrorReply(b"ERR internal error in a script")


class LongRun:
    """Work that is executed in slices.

    Attributes:
        kill_text: Why it is to end, once it is.
        busy_text: What others are told when it takes too long.
        is_busy: Whether it does.
        node: Where it is.
        worker: Who does it, from when it is begun until it is done.
    """

    __slots__ = (
        "_deferred",
        "_expired_actively",
        "_held",
        "_request",
        "_session",
        "_slice_ns",
        "_slice_until_ns",
        "_space",
        "_started_ms",
        "_started_ns",
        "busy_text",
        "is_busy",
        "kill_text",
        "node",
        "worker",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self._slice_ns = limits.SCRIPT_SLICE_NS
        self._expired_actively = True
        # Those who wait for its end, once there are any.
        self._held: dict[Deferred, tuple[Session, Command, list[bytes], Resume]] = {}
        self._deferred: Deferred | None = None
        self.worker: Worker | None = None
        self.is_busy = False
        self.kill_text: bytes | None = None

    def begin(self) -> None:
        """It begins; one that was over within a slice may begin again."""
        node = self.node
        self.kill_text = None
        self._started_ns = node.call_started_ns
        self._started_ms = node.clock.now_ms
        self._slice_until_ns = self._started_ns + self._slice_ns

    @property
    def duration_ms(self) -> int:
        """How long it has taken so far."""
        return (self.node.stopwatch.now_ns() - self._started_ns) // 1_000_000

    def rest(self) -> None:
        """Called by the work, now and then: leave off, if it is others' turn."""
        if self.node.stopwatch.now_ns() >= self._slice_until_ns and self.worker is not None:
            self.worker.leave()

    def wait(self, deferred: Deferred) -> bool:
        """Called by the work: leave off until a reply is known; false: it will not be."""
        while not deferred.done and self.kill_text is None and self.worker is not None:
            self.worker.leave()
        if not deferred.done:
            deferred.abandon()
        return deferred.done

    def kill(self, text: bytes) -> None:
        """Have it end, as soon as it is its turn."""
        if self.kill_text is None:
            self.kill_text = text

    # --- others --------------------------------------------------------------------------------

    def hold(
        self, session: Session, command: Command, request: list[bytes], resume: Resume
    ) -> Reply:
        """Have a command of the same job wait until this is over, or be told that it is busy."""
        if self.is_busy:
            return refuse(session, request, command, CommandError(self.busy_text))
        held = self._held

        def forget() -> None:
            held.pop(deferred, None)

        deferred = Deferred(exclusive=True, on_abandon=forget)
        held[deferred] = (session, command, request, resume)
        return deferred

    def _become_busy(self) -> None:
        self.is_busy = True
        waiting, self._held = self._held, {}
        for deferred, (session, command, request, _) in waiting.items():
            error = CommandError(self.busy_text)
            complete_with(deferred, refuse(session, request, command, error))

    # --- slices --------------------------------------------------------------------------------

    def leave(self, session: Session, request: list[bytes], busy_text: bytes) -> Deferred:
        """The first slice is over: the reply to this request, which is still to come."""
        self._session = session
        self._request = request
        self._space = session.space
        self.busy_text = busy_text
        self.node.long_runs[self._space.job_id] = self
        # For the script no time passes.
        self._expired_actively = self._space.expires_actively
        self._space.expires_actively = False
        self._deferred = Deferred(exclusive=True)
        self._go_on_soon()
        return self._deferred

    def _go_on_soon(self) -> None:
        # Not by the same round, in which others would not be served.
        self.node.timers.at(self.node.clock.now_ms + 1, self._slice)

    def _slice(self) -> None:
        node = self.node
        threshold_ms = node.settings.busy_reply_threshold
        if not self.is_busy and threshold_ms and self.duration_ms >= threshold_ms:
            self._become_busy()
        now_ms = node.clock.now_ms
        self._slice_until_ns = node.stopwatch.now_ns() + self._slice_ns
        node.clock.set(self._started_ms)
        reply: Reply = _DEFECT
        done = True
        try:
            done = go_on(self)
            if done:
                assert self.worker is not None  # It has just worked.
                node.workers.give_back(self.worker)
                reply = self.worker.take_result()  # type: ignore[assignment]
        except CommandError as error:
            reply = ErrorReply(error.text)
        finally:
            node.clock.set(now_ms)
            if done:
                self._finish(reply)
        if not done:
            self._go_on_soon()

    def _finish(self, reply: Reply) -> None:
        """It is over: its client is answered, and those who waited have their turn."""
        node = self.node
        session = self._session
        del node.long_runs[self._space.job_id]
        self._space.expires_actively = self._expired_actively
        node.serve_waiters()
        failure = node.commit()
        node.record_slow(session, self._request, node.stopwatch.now_ns() - self._started_ns)
        assert self._deferred is not None  # Made by `leave`.
        complete_with(self._deferred, reply if failure is None else failure)
        for deferred, (other, _, request, resume) in list(self._held.items()):
            # One of those before it may have closed this one's connection.
            if self._held.pop(deferred, None) is not None:
                answer = resume(other, request)
                failure = node.commit()
                complete_with(deferred, answer if failure is None else failure)


def go_on(run: LongRun) -> bool:
    """Have a run's worker work; whether it is done."""
    assert run.worker is not None  # Who begins a run gives it one.
    return run.worker.go_on()


def run_sliced(
    run: LongRun, work: Work, session: Session, request: list[bytes], busy_text: bytes
) -> Reply:
    """Do work that may take long, for a client's request; the reply, which may be still to come.

    If it is over, the run has no `worker` afterwards. `busy_text` is what others are told when it
    takes too long.

    Raises:
        CommandError: As `work`, if that takes no more than a slice.
    """
    workers = run.node.workers
    worker = run.worker = workers.take()
    worker.work = work
    run.begin()
    if not worker.go_on():
        return run.leave(session, request, busy_text)
    run.worker = None
    workers.give_back(worker)
    return worker.take_result()  # type: ignore[return-value]
