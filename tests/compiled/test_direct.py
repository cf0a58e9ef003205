"""Scripts go by Lua's own interface where that is compiled, and no mishap there is a trap."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from lupa import lua51

from pocketkv.lua import direct
from pocketkv.lua.interpreter import Encoded, Interpreter, ScriptError
from tests.core import IS_COMPILED

pytestmark = pytest.mark.skipif(not IS_COMPILED, reason="plain Python calls by lupa")


class Host:
    """A server that answers what a test says."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.answer: Any = None
        self.error: BaseException | None = None
        self.bodies: dict[bytes, Any] = {}

    def invoke_list(self, request: list[Any]) -> Any:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return self.answer

    def invoke(self, *arguments: Any) -> Any:
        raise AssertionError("lupa was to call nobody")

    def invoke_many(self, arguments: Any, count: int) -> Any:
        raise AssertionError("lupa was to call nobody")

    def tick(self) -> bytes | None:
        if self.error is not None:
            raise self.error
        return None

    def setresp(self, version: int) -> None:
        pass

    def acl_check_cmd(self, *_arguments: Any) -> Any:
        return True

    def log(self, level: int, text: bytes) -> None:
        pass

    def register(self, name: bytes, body: Any, _description: bytes | None, _flags: bytes) -> Any:
        self.bodies[name] = body


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def lua(host: Host) -> Interpreter:
    return Interpreter(host, "7.0.15")


def run(lua: Interpreter, code: bytes, *given: bytes) -> Any:
    return lua.run(lua.compile(code), 2, list(given), len(given))


def test_what_lupa_brings_shows_luas_functions(host: Host) -> None:
    runtime = lua51.LuaRuntime(encoding=None)
    assert direct.connect(runtime, lua51.__file__.encode(), host) is not None
    assert direct.connect(runtime, b"/no/such/library", host) is None


def test_what_a_script_asks_and_is_answered(host: Host, lua: Interpreter) -> None:
    host.answer = b"x\0y"
    assert run(lua, b"return redis.call('GET', KEYS[1], 7, 1.5, false)", b"key") == b"x\0y"
    assert host.asked == [[b"GET", b"key", 7, 1.5, False]]
    host.answer = (None, None, b"OK")
    assert run(lua, b"return redis.call('PING').ok") == b"OK"
    host.answer = (None, b"ERR no")
    assert run(lua, b"return redis.pcall('PING').err") == b"ERR no"
    with pytest.raises(ScriptError, match="ERR no"):
        run(lua, b"return redis.call('PING')")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_the_process_ends_the_script(
    host: Host, lua: Interpreter, error: BaseException
) -> None:
    host.error = error
    with pytest.raises(type(error)):
        run(lua, b"while true do pcall(redis.call, 'GET', 'a') end")
    with pytest.raises(type(error)):
        run(lua, b"while true do pcall(function() end) end")
    host.error = None
    host.answer = 1
    assert run(lua, b"return redis.call('GET', 'a')") == 1


def test_functions_stay_as_long_as_they_are_held(host: Host, lua: Interpreter) -> None:
    lua.load_library(b"redis.register_function('f', function(keys) return keys[1] end)")
    held = [lua.compile(b"return %d" % number) for number in range(100)]
    del held[::2]
    gc.collect()
    run(lua, b"collectgarbage() return 1")
    assert [lua.run(script, 2, [], 0) for script in held] == list(range(1, 100, 2))
    assert lua.call(host.bodies[b"f"], 2, [b"key"], 1) == b"key"


def test_an_interpreter_may_go_before_its_scripts(host: Host) -> None:
    lua = Interpreter(host, "7.0.15")
    script = lua.compile(b"return {1, 2}")
    assert isinstance(lua.run(script, 2, [], 0), Encoded)
    del lua
    gc.collect()
    del script
    gc.collect()
