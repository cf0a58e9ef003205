"""Keeps a write from outliving its job: a job may end while a value of it is on its way to S3."""

from __future__ import annotations

import threading


class Ticket:
    """One write that is under way.

    Attributes:
        dropped: Its job has been dropped since; what was written must go, too.
    """

    __slots__ = ("dropped", "job_id")

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.dropped = False


class Gate:
    """Knows the writes that are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets: dict[str, set[Ticket]] = {}

    def enter(self, job_id: str) -> Ticket:
        """A write begins."""
        ticket = Ticket(job_id)
        with self._lock:
            self._tickets.setdefault(job_id, set()).add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """A write has ended. From now on, who drops the job finds in S3 what it has written."""
        with self._lock:
            tickets = self._tickets[ticket.job_id]
            tickets.remove(ticket)
            if not tickets:
                del self._tickets[ticket.job_id]

    def drop(self, job_id: str) -> None:
        """Mark all writes of a job that are under way."""
        with self._lock:
            for ticket in self._tickets.get(job_id, ()):
                ticket.dropped = True
