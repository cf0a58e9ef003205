"""Scripts and functions: what they may not, how long they may, and whom they keep waiting."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkv import limits
from pocketkv.engine.stats import CommandStats
from tests.engine.harness import BLOCKED, Client, Engine
from tests.engine.stores import MemoryStore
from tests.replies import Error

_ENDLESS = "while true do end"


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(engine: Engine) -> Client:
    return engine.connect()


def run(client: Client, script: str, *arguments: object) -> Any:
    return client("EVAL", script, len(arguments), *arguments)


# --- out of the sandbox ------------------------------------------------------------------------

ESCAPES = [
    # What a script must not have at all.
    "return os.execute",
    "return os.getenv",
    "return io",
    "return require",
    "return package",
    "return python",
    "return debug",
    "return getfenv",
    "return setfenv",
    "return dofile",
    "return loadfile",
    "return module",
    "return newproxy",
    "return loadstring(string.dump(function() return 1 end))",
    "return print",
    # Bytecode.
    "return loadstring('\\27Lua')",
    "return load(function() return '\\27Lua' end)",
    (
        "local sent = false"
        " return load(function() if not sent then sent = true return '\\27Lua' end end)"
    ),
    # Code from text sees what the script sees.
    "return loadstring('return python')()",
    "return loadstring('return io')()",
    "return load(function() return nil end)",
    # Objects of Python behind what can be called.
    "return redis.call.__class__",
    "return redis.sha1hex.__globals__",
    "return cjson.decode.__self__",
    "return redis.call['__init__']",
    "return getmetatable(redis.call)",
    "return getmetatable(redis.log)",
    (
        "local t = {} for k in pairs(redis) do t[#t + 1] = type(redis[k]) == 'userdata' or nil end"
        " return t[1]"
    ),
    (
        "local t = {} for k in pairs(_G) do t[#t + 1] = type(_G[k]) == 'userdata' or nil end"
        " return t[1]"
    ),
    # Errors are texts and tables.
    "local ok, e = pcall(redis.call, 'nosuch') return type(e) == 'userdata' or nil",
    (
        "local _, e = xpcall(function() redis.call('nosuch') end, function(e) return e end)"
        " return type(e) == 'userdata' or nil"
    ),
    (
        "local c = coroutine.create(function() redis.call('nosuch') end)"
        " local _, e = coroutine.resume(c) return type(e) == 'userdata' or nil"
    ),
    # Metatables that belong to all.
    "getmetatable('').__index = {} return nil",
    "getmetatable('').__metatable = nil return nil",
    "getmetatable(_G).__index = {} return nil",
    "getmetatable(redis).__newindex = nil return nil",
    "setmetatable(_G, nil) return nil",
    "rawset(_G, 'x', 1) return nil",
    "rawset(redis, 'call', nil) return nil",
    "redis.call = nil return nil",
    "string.rep = nil return nil",
    "x = 1 return nil",
    "_G._G = {} return nil",
    "_G.x = 1 return nil",
    "table.insert(_G, 1) return nil",
    "table.sort(redis) return nil",
    "local k, v = next(getmetatable(_G)) return v",
    # The stack of the process.
    "return string.rep('a', 100000):find(string.rep('a?', 5000))",
    "return string.gsub('a', string.rep('a?', 5000), '')",
    "return ('a'):match(('a?'):rep(5000))",
    "return cjson.decode(string.rep('[', 200000))",
    "return cmsgpack.unpack(string.rep('\\145', 200000))",
    "local t = {} for i = 1, 200000 do t = {t} end return cjson.encode(t)",
    "local function f() return 1 + f() end return f()",
    "return string.format('%' .. string.rep('9', 100) .. 'd', 1)",
    "return unpack({}, 1, 1e8)",
    "return string.rep('x', 2^30)",
    "local function f() return coroutine.wrap(f)() end return f()",
    "local function f() local _, e = coroutine.resume(coroutine.create(f)) error(e, 0) end f()",
    "local function f() return pcall(f) end return f()",
    (
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end"
        " return t.x"
    ),
    "return struct.pack('i2147483648', 1)",
    "return struct.unpack('c2147483647', 'x')",
    "return ('x'):rep(1000, 'y'):rep(1e9)",
    "return table.concat({}, 'x', 1, 1e9)",
]


@pytest.mark.parametrize("script", ESCAPES)
def test_nothing_leads_out(client: Client, script: str) -> None:
    reply = run(client, script)
    assert reply is None or isinstance(reply, Error), reply
    assert run(client, "return redis.call('PING').ok") == b"PONG"
    assert run(client, "return ('x'):rep(3)") == b"xxx"
    client.engine.validate()


def test_scripts_of_another_job_are_strangers(engine: Engine, client: Client) -> None:
    other = engine.connect(job_id="other")
    sha = client("SCRIPT", "LOAD", "return 1")
    client("FUNCTION", "LOAD", "#!lua name=a\nredis.register_function('f', function() end)")
    run(client, "cjson.encode_max_depth(2)")
    assert other("EVALSHA", sha, 0) == Error("NOSCRIPT No matching script. Please use EVAL.")
    assert other("FCALL", "f", 0) == Error("ERR Function not found")
    assert other("FUNCTION", "LIST") == []
    assert run(other, "return cjson.encode({{{1}}})") == b"[[[1]]]"


def test_all_of_it_goes_with_the_job(engine: Engine) -> None:
    client = engine.connect(job_id="other")
    run(client, "return 1")
    assert engine.keyspace.open("other").scripts is not None
    engine.node.end_job("other")
    assert engine.keyspace.open("other").scripts is None


@pytest.mark.parametrize(
    "script",
    [
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = redis.call('ECHO', ('x'):rep(1000) .. #t) end",
        "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
    ],
)
def test_memory_has_an_end(engine: Engine, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_BYTES", 8 * limits.MIB)
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_HARD_BYTES", 16 * limits.MIB)
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_IDLE_BYTES", limits.MIB)
    client = engine.connect()
    if "pcall" in script:
        script = script.replace("while true do pcall", "for i = 1, 3 do pcall") + " error('enough')"
    reply = run(client, script)
    while reply is BLOCKED:
        engine.advance(1)
        reply = client.result()
    assert isinstance(reply, Error)
    assert run(client, "return 1") == 1
    assert engine.space.scripts is not None
    assert engine.space.scripts.used_bytes < 2 * limits.MIB


def test_the_very_last_bytes_are_no_trap(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_BYTES", 4 * limits.MIB)
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_HARD_BYTES", 8 * limits.MIB)
    client = engine.connect()
    script = """
        local t, n = {}, 2^22
        while n >= 16 do
          if not pcall(function() t[#t + 1] = string.rep('x', n) .. #t end) then n = n / 2 end
        end
        for i = 1, 100000 do
          if not pcall(function() t[#t + 1] = tostring(i) .. 'zz' end) then break end
        end
        for i = 1, 100 do
          pcall(redis.call, 'GET', 'a')
          pcall(redis.call, function() end)
          pcall(redis.sha1hex, 'abc')
          pcall(redis.log, redis.LOG_DEBUG, 'x')
          pcall(loadstring, 'return 1')
        end
        return 1"""
    assert run(client, script) is not None
    assert run(client, "return 1") == 1


def test_arguments_that_have_no_room_are_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCRIPT_MEMORY_BYTES", 4 * limits.MIB)
    client = engine.connect()
    reply = client("EVAL", "return #ARGV[1]", 0, "x" * 5 * limits.MIB)
    assert reply.text.startswith("OOM")
    assert client("EVAL", "return #ARGV[1]", 0, "x" * limits.MIB) == limits.MIB
    assert client("EVAL", "return #ARGV", 0, *range(10_000)) == 10_000


# --- how long they take ------------------------------------------------------------------------


class Slow:
    """A server on which each look at the time takes some of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.look_ms = 2
        # Of real time nothing may depend.
        engine._timer_ns = self._now_ns  # type: ignore[method-assign]
        engine.node.stopwatch = type(engine.node.stopwatch)(self._now_ns)

    def _now_ns(self) -> int:
        self.engine.timer_now_ns += self.look_ms * 1_000_000
        return self.engine.timer_now_ns

    def go_on(self, slices: int = 3) -> None:
        for _ in range(slices):
            self.engine.advance(1)


@pytest.fixture
def slow(engine: Engine) -> Slow:
    return Slow(engine)


def test_other_jobs_are_served_meanwhile(engine: Engine, client: Client, slow: Slow) -> None:
    other = engine.connect(job_id="other")
    assert run(client, _ENDLESS) is BLOCKED
    assert other("SET", "a", 1) == "OK"
    assert run(other, "return redis.call('GET', 'a')") == b"1"
    slow.go_on()
    assert client.result() is BLOCKED


def test_clients_of_the_same_job_wait(engine: Engine, client: Client, slow: Slow) -> None:
    script = "for i = 1, 300000 do end redis.call('SET', 'a', 1) for i = 1, 300000 do end return 5"
    second = engine.connect()
    assert run(client, script) is BLOCKED
    assert second("INCR", "a") is BLOCKED
    for _ in range(100):
        slow.go_on(1)
        if client.result() is not BLOCKED:
            break
    assert second.result() == 2
    assert not engine.node.long_runs


def test_when_it_takes_too_long_they_are_told(engine: Engine, client: Client, slow: Slow) -> None:
    second, third = engine.connect(), engine.connect()
    assert run(client, _ENDLESS) is BLOCKED
    assert second("PING") is BLOCKED
    slow.look_ms = 3000
    slow.go_on()
    assert second.result().text.startswith("BUSY Redis is busy running a script.")
    assert third("GET", "a").text.startswith("BUSY")
    assert third("FUNCTION", "KILL").text.startswith("BUSY")
    assert third("SCRIPT", "KILL") == "OK"
    slow.go_on()
    assert client.result().text.startswith("ERR Script killed by user with SCRIPT KILL. script: ")
    assert third("GET", "a") is None
    assert third("SCRIPT", "KILL").text.startswith("NOTBUSY")


@pytest.mark.parametrize(
    "script",
    [
        "while true do pcall(function() while true do end end) end",
        "local f = coroutine.wrap(function() while true do end end) while true do f() end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "while true do local f = function() while true do end end pcall(pcall, pcall, f) end",
        "while true do pcall(coroutine.wrap(function() while true do end end)) end",
        "table.sort({3, 2, 1}, function() while true do end end)",
        "local s = setmetatable({}, {__index = function() while true do end end}) return s.x",
        "string.gsub('x', '.', function() while true do end end)",
        "load(function() while true do end end)",
        "while true do loadstring('while true do end')() end",
    ],
)
def test_whatever_it_does_it_is_killed(
    engine: Engine, client: Client, slow: Slow, script: str
) -> None:
    assert run(client, script) is BLOCKED
    assert engine.connect()("SCRIPT", "KILL") == "OK"
    slow.go_on(5)
    assert isinstance(client.result(), Error)
    assert run(client, "return 1") == 1


@pytest.mark.parametrize(
    "script",
    [
        "local function f() while true do pcall(f) end end f()",
        "local function f() while true do xpcall(f, function() end) end end f()",
        "local function f() while true do pcall(coroutine.wrap(f)) end end f()",
        "local function f() while true do coroutine.resume(coroutine.create(f)) end end f()",
        (
            "local t = setmetatable({}, {__index = function(t, k) while true do pcall(function()"
            " return t[k] end) end end}) return t.x"
        ),
        (
            "local function f(n) if n > 0 then return 1 + f(n - 1) end"
            " while true do pcall(f, 20000) end end while true do pcall(f, 19000) end"
        ),
    ],
)
def test_nothing_is_gone_on_with_where_there_is_no_stack_left(
    client: Client, slow: Slow, script: str
) -> None:
    reply = run(client, script)
    if reply is BLOCKED:
        client.engine.connect()("SCRIPT", "KILL")
        slow.go_on(5)
        reply = client.result()
    assert isinstance(reply, Error)
    assert run(client, "return 1") == 1


def test_what_has_written_is_not_killed(engine: Engine, client: Client, slow: Slow) -> None:
    second = engine.connect()
    script = "redis.call('SET', 'a', 1) for i = 1, 400000 do end return 1"
    assert run(client, script) is BLOCKED
    assert second("SCRIPT", "KILL").text.startswith("UNKILLABLE")
    slow.go_on(50)
    assert client.result() == 1


def test_a_function_is_killed_by_its_own_command(
    engine: Engine, client: Client, slow: Slow
) -> None:
    code = f"#!lua name=a\nredis.register_function('f', function() {_ENDLESS} end)"
    client("FUNCTION", "LOAD", code)
    second = engine.connect()
    assert client("FCALL", "f", 0) is BLOCKED
    stats = dict(zip(*[iter(second("FUNCTION", "STATS"))] * 2, strict=True))
    assert stats[b"running_script"][1] == b"f"
    assert second("SCRIPT", "KILL").text.startswith("BUSY")
    assert second("FUNCTION", "KILL") == "OK"
    slow.go_on()
    assert client.result().text.startswith("ERR Function killed by user with FUNCTION KILL.")


def test_a_library_has_half_a_second(client: Client, slow: Slow) -> None:
    slow.look_ms = 200
    reply = client("FUNCTION", "LOAD", f"#!lua name=a\n{_ENDLESS}")
    assert reply == Error("ERR Error registering functions: ERR FUNCTION LOAD timeout")


def test_a_job_that_ends_ends_its_script(engine: Engine, slow: Slow) -> None:
    client = engine.connect(job_id="other")
    script = "redis.call('SET', 'a', 1) while true do pcall(redis.call, 'SET', 'a', 1) end"
    assert run(client, script) is BLOCKED
    engine.node.end_job("other")
    slow.go_on()
    assert not engine.node.long_runs
    assert engine.keyspace.used_bytes == 0


def test_time_stands_still_for_a_script(engine: Engine, client: Client, slow: Slow) -> None:
    script = (
        "redis.call('SET', 'a', 1, 'PX', 10) for i = 1, 400000 do end return redis.call('GET', 'a')"
    )
    assert run(client, script) is BLOCKED
    for _ in range(60):
        slow.go_on(1)
        engine.keyspace.expire_some()
    assert client.result() == b"1"
    assert client("GET", "a") is None
    assert engine.space.expires_actively


def test_a_transaction_with_scripts_is_one(engine: Engine, client: Client, slow: Slow) -> None:
    second = engine.connect()
    client("MULTI")
    client("SET", "a", 1)
    client("EVAL", "for i = 1, 300000 do end return redis.call('INCR', 'a')", 0)
    client("INCR", "a")
    assert client("EXEC") is BLOCKED
    assert second("GET", "a") is BLOCKED
    slow.go_on(50)
    assert client.result() == ["OK", 2, 3]
    assert second.result() == b"3"


def test_a_client_that_goes_away_leaves_its_script(
    engine: Engine, client: Client, slow: Slow
) -> None:
    script = "for i = 1, 300000 do end redis.call('SET', 'a', 1)"
    assert run(client, script) is BLOCKED
    client.disconnect()
    slow.go_on(50)
    assert engine.connect()("GET", "a") == b"1"


# --- what is counted, and what is kept ---------------------------------------------------------


def stats(engine: Engine, name: str) -> CommandStats:
    return engine.node.command_stats[name]


def test_commands_of_scripts_count(engine: Engine, client: Client) -> None:
    run(
        client, "redis.call('SET', 'a', 'x') redis.pcall('INCR', 'a') return redis.call('GET', 'a')"
    )
    assert stats(engine, "eval").calls == 1
    assert stats(engine, "set").calls == 1
    assert stats(engine, "get").calls == 1
    assert stats(engine, "incr").failed == 1


def test_a_script_s_database_is_its_own(client: Client) -> None:
    client("SELECT", 2)
    client("SET", "a", "two")
    assert run(client, "return redis.call('GET', 'a')") == b"two"
    run(client, "redis.call('SELECT', 3) redis.call('SET', 'a', 'three')")
    assert client("GET", "a") == b"two"
    client("SELECT", 3)
    assert client("GET", "a") == b"three"


def test_nobody_waits_in_a_script(client: Client) -> None:
    reply = client("EVAL", "return redis.call('WAIT', 1, 0)", 0)
    assert reply == 0 or isinstance(reply, Error)


def test_scripts_of_eval_are_forgotten_some_day(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCRIPTS_FROM_EVAL_MAX", 3)
    kept = client("SCRIPT", "LOAD", "return 'kept'")
    for number in range(10):
        run(client, f"return {number}")
    assert client("EVALSHA", kept, 0) == b"kept"
    scripts = client.session.space.scripts
    assert scripts is not None
    assert len(scripts.known) == 4


def test_a_write_beyond_the_quota_is_refused_in_the_middle() -> None:
    engine = Engine(memory_bytes=200_000)
    client = engine.connect()
    reply = run(client, "for i = 1, 100 do redis.call('SET', i, ('x'):rep(10000)) end")
    assert reply.text.startswith("OOM command not allowed when used memory > 'maxmemory'. script: ")
    assert 10 < client("DBSIZE") < 30
    engine.validate()


def test_a_script_says_that_it_writes_though_memory_is_full() -> None:
    engine = Engine(memory_bytes=100_000)
    client = engine.connect()
    client("SET", "a", "x" * 60_000)
    engine.keyspace.memory_bytes = 1000
    assert run(client, "#!lua\nreturn 1").text.startswith("OOM allow-oom flag is not set")
    assert run(client, "#!lua flags=no-writes\nreturn 1") == 1
    script = "#!lua flags=allow-oom\nreturn redis.call('SET', 'b', 1)"
    assert run(client, script) == "OK"


def test_keys_of_another_server_are_refused(engine: Engine) -> None:
    engine.own_only([(0, 8191)])
    client = engine.connect()
    assert run(client, "return 1", "a").text.startswith("MOVED 15495")
    reply = run(client, "return redis.call('GET', 'a')", "b")
    assert reply.text.startswith("ERR Script attempted to access a non local key in a cluster node")
    assert run(client, "return redis.call('GET', 'b')", "b") is None


def test_values_that_are_not_in_memory_are_read() -> None:
    engine = Engine(store=MemoryStore(is_slow=True))
    client = engine.connect()
    client("SET", "a", 1)
    client("SET", "b", 2)
    # One that is declared, and one that is not.
    script = "return {redis.call('GET', KEYS[1]), redis.call('GET', 'b')}"
    assert run(client, script, "a") == [b"1", b"2"]
    engine.validate()


def test_a_failed_commit_is_the_answer() -> None:
    store = MemoryStore()
    client = Engine(store=store).connect()
    store.error = OSError(5, "Input/output error")
    assert run(client, "return redis.call('SET', 'a', 1)").text.startswith("IOERR")


def test_what_is_logged_has_a_place_to_go(engine: Engine, client: Client) -> None:
    told: list[tuple[str, int, bytes]] = []
    engine.node.script_log = lambda job, level, text: told.append((job, level, text))
    run(client, "redis.log(redis.LOG_NOTICE, 'a', 1, 'b')")
    assert told == [("default", 2, b"a 1 b")]


def test_pauses_hold_what_may_write(engine: Engine, client: Client) -> None:
    second = engine.connect()
    second("CLIENT", "PAUSE", 1000, "WRITE")
    assert run(client, "return 1") is BLOCKED
    third = engine.connect()
    assert third("EVAL_RO", "return 1", 0) == 1
    second("CLIENT", "UNPAUSE")
    assert client.result() == 1
