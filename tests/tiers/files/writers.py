"""Clients that write at random and know, to the byte, what the server may hold afterwards."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pocketkv.limits import KIB, MIB
from pocketkv.resp.encoder import encode_request
from tests.replies import Error
from tests.tiers.files.servers import Client, Request, Server, pattern

Value = bytes | frozenset[bytes]
SIZES = [10, 10, 10, 200, KIB, KIB, 20 * KIB, 60 * KIB, 70 * KIB, 300 * KIB, MIB]
_FAR_MS = 4_000_000_000_000
_KEYS = 25


@dataclass
class Held:
    """What a key holds, and when it expires; 0: never."""

    value: Value
    due_ms: int = 0


State = dict[bytes, Held]
Change = Callable[[State], None]


@dataclass
class Writer:
    """One connection that has a database for itself.

    Attributes:
        index: The database.
        state: What was acknowledged.
        pending: What was sent since, in order: all of it may have been done, or the first few.
        acknowledged: How many requests were.
        refused: Errors that were answered; nothing was changed then.
    """

    index: int
    rng: random.Random
    state: State = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    acknowledged: int = 0
    refused: list[Error] = field(default_factory=list)

    def run(self, client: Client, stop: threading.Event) -> None:
        """Write until told to stop, or the server is gone."""
        try:
            client("SELECT", self.index)
            while not stop.is_set():
                self.write(client)
        except (OSError, AssertionError):
            # The server was killed.
            return

    def write(self, client: Client) -> None:
        """Send a few requests in one go, and take note of their replies."""
        requests: list[Request] = []
        now = copy.copy(self.state)
        for _ in range(self.rng.choice([1, 1, 3, 10])):
            request, change = self._draw(now)
            change(now)
            requests.append(request)
            self.pending.append(change)
        client.send_raw(b"".join(map(encode_request, requests)))
        for _ in requests:
            reply = client.next_reply()
            change = self.pending.pop(0)
            if isinstance(reply, Error):
                self.refused.append(reply)
            else:
                change(self.state)
                self.acknowledged += 1

    def _draw(self, state: State) -> tuple[Request, Change]:
        rng = self.rng
        name = b"%d:%d" % (self.index, rng.randrange(_KEYS))
        held = state.get(name)
        if held is not None and 0 < held.due_ms < _FAR_MS:
            # It may be gone at any time: only what does not depend on that is sent.
            return rng.choice([_set, _delete])(rng, name, state)
        draw = rng.choice(
            [*[_set] * 5, _expiring, _short, _delete, _append, _append, _rename, _add]
        )
        if draw is _append and not isinstance(getattr(held, "value", b""), bytes):
            draw = _add
        if draw is _add and isinstance(getattr(held, "value", None), bytes):
            draw = _setrange
        if rng.random() < 0.002:
            return [b"FLUSHDB"], lambda state: state.clear()
        return draw(rng, name, state)

    def check(self, client: Client) -> None:
        """What the server holds must be what was acknowledged, or a little more of what was sent.

        Go on from there.
        """
        client("SELECT", self.index)
        self._let_pass()
        found = observe(client)
        state = self.state
        for change in (None, *self.pending):
            if change is not None:
                change(state)
            if found == _alive(state):
                break
        else:
            raise AssertionError(self._explain(found))
        self.state = state
        self.pending = []

    def _let_pass(self) -> None:
        """Wait until what was to expire soon has expired."""
        states = copy.copy(self.state)
        dues = [held.due_ms for held in states.values()]
        for change in self.pending:
            change(states)
            dues += [held.due_ms for held in states.values()]
        last_ms = max([due_ms for due_ms in dues if due_ms < _FAR_MS], default=0)
        while time.time_ns() // 1_000_000 <= last_ms + 5:
            threading.Event().wait(0.01)

    def _explain(self, found: dict[bytes, tuple[Value, int]]) -> str:
        expected = _alive(self.state)
        names = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
        shown = {name: (_brief(found.get(name)), _brief(expected.get(name))) for name in names}
        return f"database {self.index}, found and expected (all pending done): {shown}"


def _brief(held: tuple[Value, int] | None) -> object:
    if held is None:
        return None
    value, due_ms = held
    return (len(value), value[:40] if isinstance(value, bytes) else "set", due_ms)


def _alive(state: State) -> dict[bytes, tuple[Value, int]]:
    now_ms = time.time_ns() // 1_000_000
    return {
        name: (held.value, held.due_ms)
        for name, held in state.items()
        if held.due_ms == 0 or held.due_ms > now_ms
    }


def observe(client: Client) -> dict[bytes, tuple[Value, int]]:
    """All keys of the database that is selected."""
    found: dict[bytes, tuple[Value, int]] = {}
    for name in client("KEYS", "*"):
        is_set = client("TYPE", name) == "set"
        value: Any = client("SMEMBERS", name) if is_set else client("GET", name)
        assert not isinstance(value, Error), (name, value)
        due_ms = client("PEXPIRETIME", name)
        found[name] = (frozenset(value) if is_set else value, max(due_ms, 0))
    return found


# --- requests, with what they do -----------------------------------------------------------------


def _value(rng: random.Random) -> bytes:
    return pattern(rng.randrange(40), rng.choice(SIZES))


def _holding(name: bytes, held: Held) -> Change:
    def change(state: State) -> None:
        state[name] = held

    return change


def _set(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    value = _value(rng)
    return [b"SET", name, value], _holding(name, Held(value))


def _expiring(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    value, due_ms = _value(rng), _FAR_MS + rng.randrange(10**6)
    return [b"SET", name, value, b"PXAT", b"%d" % due_ms], _holding(name, Held(value, due_ms))


def _short(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    value = _value(rng)
    due_ms = time.time_ns() // 1_000_000 + rng.randrange(20, 400)
    return [b"SET", name, value, b"PXAT", b"%d" % due_ms], _holding(name, Held(value, due_ms))


def _delete(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    def change(state: State) -> None:
        state.pop(name, None)

    return [rng.choice([b"DEL", b"UNLINK"]), name], change


def _append(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    value = _value(rng)

    def change(state: State) -> None:
        held = state.get(name) or Held(b"")
        assert isinstance(held.value, bytes)
        state[name] = Held((held.value + value), held.due_ms)

    held = state.get(name)
    if held is not None and len(held.value) > 4 * MIB:
        return _set(rng, name, state)
    return [b"APPEND", name, value], change


def _setrange(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    value = _value(rng)
    offset = rng.choice([0, 3, 65_000, 200_000])

    def change(state: State) -> None:
        held = state.get(name) or Held(b"")
        assert isinstance(held.value, bytes)
        old = held.value.ljust(offset, b"\0")
        state[name] = Held(old[:offset] + value + old[offset + len(value) :], held.due_ms)

    return [b"SETRANGE", name, b"%d" % offset, value], change


def _rename(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    other = b"%d:%d" % (int(name.split(b":")[0]), rng.randrange(_KEYS))
    if name not in state or other == name:
        return _set(rng, name, state)
    is_copy = rng.random() < 0.5

    def change(state: State) -> None:
        state[other] = Held(state[name].value, state[name].due_ms)
        if not is_copy:
            del state[name]

    if is_copy:
        return [b"COPY", name, other, b"REPLACE"], change
    return [b"RENAME", name, other], change


def _add(rng: random.Random, name: bytes, state: State) -> tuple[Request, Change]:
    count = rng.choice([1, 3, 300])
    members = frozenset(b"member %d" % rng.randrange(2000) for _ in range(count))
    adds = rng.random() < 0.7 or name not in state

    def change(state: State) -> None:
        held = state.get(name) or Held(frozenset())
        assert isinstance(held.value, frozenset)
        left = held.value | members if adds else held.value - members
        state[name] = Held(left, held.due_ms)
        if not left:
            del state[name]

    return [b"SADD" if adds else b"SREM", name, *sorted(members)], change


# --- many of them -------------------------------------------------------------------------------


def writers(count: int, seed: int) -> list[Writer]:
    """So many, each with its own randomness."""
    return [Writer(index, random.Random(f"{seed}/{index}")) for index in range(count)]


def write_until_killed(server: Server, writing: list[Writer], seconds: float) -> None:
    """Have all of them write, and kill the server after some time."""
    stop = threading.Event()
    clients = [server.client() for _ in writing]
    threads = [
        threading.Thread(target=writer.run, args=(client, stop))
        for writer, client in zip(writing, clients, strict=True)
    ]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    server.process.kill()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    server.kill()
