"""Work that is left in the middle, and gone on with later; the only door to greenlet.

A worker has a stack of its own, so that whatever it calls (Lua, and a command called from there)
can be left as it is.
"""

from __future__ import annotations

from typing import Final

from greenlet import getcurrent, greenlet

_IDLE_MAX: Final = 4
_DONE: Final = object()


class Work:
    """Base of what workers do."""

    __slots__ = ()

    def do(self) -> object:
        """Do all of it; what it comes to."""
        raise NotImplementedError  # An interface: workers only know subclasses.


class Worker:
    """Does one piece of work at a time.

    Attributes:
        work: What it is to do, or does.
    """

    __slots__ = ("_back", "_failure", "_greenlet", "_parent", "_result", "_switch", "work")

    def __init__(self) -> None:
        self.work: Work | None = None
        self._result: object = None
        self._failure: BaseException | None = None
        self._greenlet = greenlet(self._loop)
        self._switch = self._greenlet.switch
        self._parent = getcurrent()
        self._back = self._parent.switch

    def _loop(self) -> None:
        while True:
            assert self.work is not None  # Who takes a worker gives it some.
            try:
                self._result = self.work.do()
            except Exception as error:  # noqa: BLE001 - `take_result` raises it
                self._failure = error
            self.work = None
            self._back(_DONE)

    def go_on(self) -> bool:
        """Work until it is done or leaves off; whether it is done."""
        # Whoever calls is who is returned to.
        caller = getcurrent()
        if caller is not self._parent:
            self._parent = self._greenlet.parent = caller
            self._back = caller.switch
        return self._switch() is _DONE

    def leave(self) -> None:
        """Called by the work itself: leave it here, until `go_on`."""
        self._back()

    def take_result(self) -> object:
        """What the work came to.

        Raises:
            Exception: What it raised.
        """
        result = self._result
        self._result = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return result


class Workers:
    """Workers that are used again."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []

    def take(self) -> Worker:
        """A worker that has nothing to do."""
        return self._idle.pop() if self._idle else Worker()

    def give_back(self, worker: Worker) -> None:
        """It has nothing to do any more."""
        if len(self._idle) < _IDLE_MAX:
            self._idle.append(worker)
