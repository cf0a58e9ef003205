# cython: language_level=3
"""Calls between Lua and Python by Lua's own interface, which is C's. The plain twin is `direct.py`.

The functions of Lua are those of the library that lupa brings, found by their names when the first
interpreter is made. The GIL is kept while Lua works: a script has the thread anyway, and `tick`
comes every few milliseconds.

Lua leaves its functions by a long jump where memory is short. Who calls has made sure that there
is room, as lupa must.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from pocketkv.lua.lua_api cimport find_lua, lua, lua_CFunction, lua_State

# Of lua.h.
cdef enum:
    REGISTRY = -10000
    # The values that a function of C was made with.
    OWNER = -10003
    CHECK_ROOM = -10004
    SOFT_KIB = -10005
    ALL_RESULTS = -1
    NO_MEMORY = 4
    USED_KIB = 3
    BOOLEAN = 1
    NUMBER = 3
    STRING = 4
    TABLE = 5

# What a function may put on Lua's stack without asking.
cdef enum:
    ROOM = 20

# As the sandbox has them: how what a script came to is taken, unless it is a value as it is.
cdef enum:
    ENCODED = 1
    STATUS = 3
    ERROR_REPLY = 4

# What is deeper or larger is left to the sandbox, which has limits of its own.
cdef enum:
    NESTED_MAX = 16
    ENCODED_BYTES_MAX = 1 << 20

cdef bytes DEFECT = b"ERR internal error"


class OutOfMemoryError(Exception):
    """Lua has no memory left."""


class FailedError(Exception):
    """Lua failed outside of a script's code; the argument is why."""


@cython.final
@cython.freelist(16)
cdef class Table:
    """A list, or a dict, that becomes a table of Lua. Unlike these it may be a key in another."""


@cython.final
@cython.no_gc_clear
cdef class Body:
    """A function or table of Lua, which stays while this does."""

    def __dealloc__(self):
        if self._direct is not None:
            lua.unref(<lua_State *>self._direct._state, REGISTRY, self._ref)


@cython.final
@cython.no_gc_clear
cdef class Direct:
    """Calls into one interpreter, and out of it.

    Attributes:
        given: What the sandbox is to be given, by name: functions of Lua.
    """

    def __init__(self, runtime, host):
        self._runtime = runtime
        self._invoke = host.invoke_list
        self._tick = host.tick

    cpdef long long used_bytes(self):
        """Memory that Lua takes."""
        return 1024 * <long long>lua.gc(<lua_State *>self._state, USED_KIB, 0)

    cpdef table(self, items):
        """What `Host.invoke_list` gives for a list or a dict that is to be a table."""
        cdef Table made = Table.__new__(Table)
        made.items = items
        return made

    cpdef Body body(self, function):
        """A function of Lua, to be given to `run` or `call`."""
        cdef Body made = Body.__new__(Body)
        made._ref = self.given[b"keep"](function)
        made._direct = self
        return made

    def enter(self, sandbox):
        """The sandbox is made, and shows what executes scripts."""
        self._begin = self.body(sandbox[b"begin"])
        self._finished = self.body(sandbox[b"finished"])
        self._globals = self.body(sandbox[b"globals"])
        self._on_error = self.body(sandbox[b"on_error"])

    cpdef run(self, Body code, int protocol, list given, Py_ssize_t key_count):
        """Execute a script, with its keys and arguments as globals.

        Returns:
            What the sandbox's `finished` does; several values in a tuple.

        Raises:
            OutOfMemoryError, FailedError: Lua failed outside of the script.
            BaseException: What the host raised against its promise.
        """
        return self._execute(code, protocol, given, key_count, True)

    cpdef call(self, Body code, int protocol, list given, Py_ssize_t key_count):
        """Execute a function, with its keys and arguments as two tables; otherwise as `run`."""
        return self._execute(code, protocol, given, key_count, False)

    cdef _execute(self, Body code, int protocol, list given, Py_ssize_t key_count, bint is_script):
        cdef lua_State *state = <lua_State *>self._state
        cdef int top = lua.gettop(state)
        cdef int status
        if not lua.checkstack(state, ROOM):
            raise OutOfMemoryError
        try:
            if self._is_dirty:
                self._is_dirty = False
                lua.rawgeti(state, REGISTRY, self._begin._ref)
                require(state, lua.pcall(state, 0, 0, 0))
            lua.rawgeti(state, REGISTRY, self._on_error._ref)
            if is_script:
                lua.rawgeti(state, REGISTRY, self._globals._ref)
                lua.pushlstring(state, b"KEYS", 4)
                push_strings(state, given, 0, key_count)
                lua.rawset(state, -3)
                lua.pushlstring(state, b"ARGV", 4)
                push_strings(state, given, key_count, len(given))
                lua.rawset(state, -3)
                lua.settop(state, top + 1)
                lua.rawgeti(state, REGISTRY, code._ref)
                status = lua.pcall(state, 0, 1, top + 1)
            else:
                lua.rawgeti(state, REGISTRY, code._ref)
                push_strings(state, given, 0, key_count)
                push_strings(state, given, key_count, len(given))
                status = lua.pcall(state, 2, 1, top + 1)
            if self._raised is not None:
                raised, self._raised = self._raised, None
                raise raised
            return self._finish(protocol, status == 0)
        finally:
            lua.settop(state, top)

    cdef _finish(self, int protocol, bint is_ok):
        """What a script came to, which is on top of the stack."""
        cdef lua_State *state = <lua_State *>self._state
        cdef int top = lua.gettop(state)
        cdef int kind = lua.type(state, top)
        if is_ok:
            if kind == STRING or kind == NUMBER:
                return taken(state, top)
            if kind != TABLE and kind != BOOLEAN:
                return None
            # What scripts answer most; all else is left to the sandbox.
            if kind == TABLE and field(state, top, b"ok") == STRING and field(state, top, b"err") != STRING:
                return STATUS, taken(state, top + 1)
            lua.settop(state, top)
            if not self._is_dirty:
                # The script has chosen no protocol, so booleans are what they are in RESP2.
                raw = plainly_encoded(state, protocol)
                if raw is not None:
                    return ENCODED, raw
        lua.rawgeti(state, REGISTRY, self._finished._ref)
        lua.pushnumber(state, protocol)
        lua.pushboolean(state, is_ok)
        lua.pushvalue(state, top)
        require(state, lua.pcall(state, 3, ALL_RESULTS, 0))
        return results(state, top)

    cdef int _answer(self, void *of) except -2:
        """`Host.invoke_list` with what is on Lua's stack.

        Returns:
            How many values it answered; -1: one, an error.
        """
        cdef lua_State *state = <lua_State *>of
        cdef int count = lua.gettop(state)
        cdef int i
        cdef list request = PyList_New(count)
        for i in range(count):
            argument = taken(state, i + 1)
            Py_INCREF(argument)
            PyList_SET_ITEM(request, i, argument)
        reply = self._invoke(request)
        lua.settop(state, 0)
        if type(reply) is not tuple:
            push(state, reply)
            return 1
        text = (<tuple>reply)[1]
        lua.createtable(state, 0, 2)
        if text is None:
            push_field(state, b"ok", (<tuple>reply)[2])
            return 1
        push_field(state, b"err", text)
        if len(<tuple>reply) > 3:
            # An error that was counted is not counted again as the script's.
            push_field(state, b"ignore_error_stats_update", True)
        return -1


cdef int require(lua_State *state, int status) except -1:
    """Raise what a call outside of a script's code came to, if that is nothing good."""
    if status == 0:
        return 0
    if status == NO_MEMORY:
        raise OutOfMemoryError
    text = taken(state, -1)
    raise FailedError(text if type(text) is bytes else b"unknown error")


cdef int field(lua_State *state, int place, bytes name) noexcept:
    """Put a field of a table on top of the stack; which kind of value it is."""
    lua.pushlstring(state, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    lua.rawget(state, place)
    return lua.type(state, -1)


cdef int push_field(lua_State *state, bytes name, value) except -1:
    """Set a field of the table on top of the stack."""
    lua.pushlstring(state, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    push(state, value)
    lua.rawset(state, -3)
    return 0


cdef int push_strings(lua_State *state, list given, Py_ssize_t first, Py_ssize_t end) except -1:
    """Push a table of some items of a list."""
    cdef Py_ssize_t i
    cdef bytes item
    lua.createtable(state, <int>(end - first), 0)
    for i in range(first, end):
        item = given[i]
        lua.pushlstring(state, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
        lua.rawseti(state, -2, <int>(i - first) + 1)
    return 0


cdef object results(lua_State *state, int top):
    cdef int count = lua.gettop(state) - top
    cdef int i
    if count == 1:
        return taken(state, top + 1)
    return tuple([taken(state, top + i) for i in range(1, count + 1)])


cdef object taken(lua_State *state, int place):
    """A string, number or boolean of Lua's stack; of anything else, ``None``."""
    cdef int kind = lua.type(state, place)
    cdef size_t size
    cdef const char *text
    cdef double number
    if kind == STRING:
        text = lua.tolstring(state, place, &size)
        return PyBytes_FromStringAndSize(text, size)
    if kind == NUMBER:
        number = lua.tonumber(state, place)
        # As lupa has it: numbers that are whole are integers.
        if -9.2e18 < number < 9.2e18 and number == <double><long long>number:
            return <long long>number
        return number
    if kind == BOOLEAN:
        return lua.toboolean(state, place) != 0
    return None


cdef int push(lua_State *state, object value) except -1:
    """Put a value on Lua's stack."""
    kind = type(value)
    if kind is bytes:
        lua.pushlstring(state, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    elif value is None:
        lua.pushnil(state)
    elif kind is bool:
        lua.pushboolean(state, value is True)
    elif kind is Table:
        push_table(state, (<Table>value).items)
    else:
        lua.pushnumber(state, <double>value)
    return 0


cdef int push_table(lua_State *state, object items) except -1:
    cdef int i = 0
    if not lua.checkstack(state, ROOM):
        raise OutOfMemoryError
    if type(items) is dict:
        lua.createtable(state, 0, <int>len(<dict>items))
        for key, value in (<dict>items).items():
            push(state, key)
            push(state, value)
            lua.rawset(state, -3)
        return 0
    lua.createtable(state, <int>len(<list>items), 0)
    for value in <list>items:
        i += 1
        push(state, value)
        lua.rawseti(state, -2, i)
    return 0


# --- what scripts return ----------------------------------------------------------------------


cdef struct Buffer:
    char *data
    size_t size
    size_t room


cdef object plainly_encoded(lua_State *state, int protocol):
    """The reply that the value on top of the stack is, as the sandbox encodes it.

    ``None``, if it is anything but strings, numbers, booleans and lists of these.
    """
    cdef Buffer out = Buffer(NULL, 0, 0)
    cdef int top = lua.gettop(state)
    try:
        return out.data[: out.size] if encode(state, &out, protocol, 0) else None
    finally:
        free(out.data)
        lua.settop(state, top)


cdef bint encode(lua_State *state, Buffer *out, int protocol, int depth) noexcept:
    """Encode the value on top of the stack; whether it could be."""
    cdef int kind = lua.type(state, -1)
    cdef char line[32]
    cdef size_t size
    cdef const char *text
    cdef double number
    if kind == STRING:
        text = lua.tolstring(state, -1, &size)
        return (
            append(out, line, snprintf(line, sizeof(line), "$%zu\r\n", size))
            and append(out, text, size)
            and append(out, "\r\n", 2)
        )
    if kind == NUMBER:
        number = lua.tonumber(state, -1)
        if not -9223372036854775808.0 <= number < 9223372036854775808.0:
            return append(out, ":-9223372036854775808\r\n", 23)
        return append(out, line, snprintf(line, sizeof(line), ":%lld\r\n", <long long>number))
    if kind == BOOLEAN:
        if lua.toboolean(state, -1):
            return append(out, ":1\r\n", 4)
        return append(out, "_\r\n", 3) if protocol == 3 else append(out, "$-1\r\n", 5)
    if kind == TABLE and depth < NESTED_MAX and lua.checkstack(state, ROOM):
        return encode_list(state, out, protocol, depth)
    return False


cdef bint encode_list(lua_State *state, Buffer *out, int protocol, int depth) noexcept:
    """`encode` of a table, if it has nothing but items, and they come in order."""
    cdef int place = lua.gettop(state)
    cdef size_t start = out.size
    cdef char line[32]
    cdef int count = 0
    cdef size_t size
    # A table that cannot be changed shows another one.
    if lua.getmetatable(state, place):
        return False
    lua.pushnil(state)
    while lua.next(state, place):
        count += 1
        if lua.type(state, -2) != NUMBER or lua.tonumber(state, -2) != count:
            return False
        if not encode(state, out, protocol, depth + 1):
            return False
        lua.settop(state, place + 1)
    # Now that the count is known, it goes in front.
    size = snprintf(line, sizeof(line), "*%d\r\n", count)
    if not append(out, line, size):
        return False
    if out.size > start + size:
        memmove(out.data + start + size, out.data + start, out.size - start - size)
        memcpy(out.data + start, line, size)
    return True


cdef bint append(Buffer *out, const char *data, size_t size) noexcept:
    cdef char *grown
    if out.size + size > out.room:
        if out.size + size > ENCODED_BYTES_MAX:
            return False
        grown = <char *>realloc(out.data, 2 * (out.size + size) + 64)
        if grown == NULL:
            return False
        out.data = grown
        out.room = 2 * (out.size + size) + 64
    memcpy(out.data + out.size, data, size)
    out.size += size
    return True


# --- what Lua calls ---------------------------------------------------------------------------


cdef int ask_host(lua_State *state) noexcept with gil:
    cdef Direct direct = <Direct>lua.touserdata(state, OWNER)
    try:
        if direct._raised is None:
            return direct._answer(<void *>state)
    except BaseException as error:
        direct._raised = error
    lua.settop(state, 0)
    lua.createtable(state, 0, 1)
    lua.pushlstring(state, b"err", 3)
    lua.pushlstring(state, DEFECT, len(DEFECT))
    lua.rawset(state, -3)
    return -1


# These hold no object of Python, since an error jumps out of them.


cdef int redis_pcall(lua_State *state) noexcept nogil:
    if lua.gc(state, USED_KIB, 0) > lua.tonumber(state, SOFT_KIB):
        lua.pushvalue(state, CHECK_ROOM)
        lua.call(state, 0, 0)
    cdef int count = ask_host(state)
    return 1 if count < 0 else count


cdef int redis_call(lua_State *state) noexcept nogil:
    if lua.gc(state, USED_KIB, 0) > lua.tonumber(state, SOFT_KIB):
        lua.pushvalue(state, CHECK_ROOM)
        lua.call(state, 0, 0)
    cdef int count = ask_host(state)
    return lua.error(state) if count < 0 else count


cdef int make_callers(lua_State *state) noexcept with gil:
    """`redis.call` and `redis.pcall`, given who makes sure that there is room, and from when on."""
    cdef int i
    for i in range(2):
        lua.pushvalue(state, OWNER)
        lua.pushvalue(state, 1)
        lua.pushvalue(state, 2)
        lua.pushcclosure(state, redis_pcall if i else redis_call, 3)
    return 2


cdef int tick(lua_State *state) noexcept with gil:
    cdef Direct direct = <Direct>lua.touserdata(state, OWNER)
    try:
        if direct._raised is None:
            push(state, direct._tick())
            return 1
    except BaseException as error:
        direct._raised = error
    lua.pushlstring(state, DEFECT, len(DEFECT))
    return 1


cdef int mark(lua_State *state) noexcept with gil:
    """Say that `begin` has something to do before the next script."""
    (<Direct>lua.touserdata(state, OWNER))._is_dirty = True
    return 0


cdef int keep(lua_State *state) noexcept with gil:
    """The number by which a function or table is found."""
    lua.settop(state, 1)
    lua.pushnumber(state, lua.ref(state, REGISTRY))
    return 1


# Who is being connected; Lua gives what loads a function nothing but its state.
cdef Direct opening = None


cdef int push_closure(lua_State *state, lua_CFunction function) noexcept:
    lua.pushlightuserdata(state, <void *>opening)
    lua.pushcclosure(state, function, 1)
    return 0


cdef public int pocketkv_lua_open(lua_State *state) noexcept with gil:
    """Called by Lua: functions for `opening`, in the order of `GIVEN`."""
    opening._state = <void *>state
    push_closure(state, make_callers)
    push_closure(state, tick)
    push_closure(state, mark)
    push_closure(state, keep)
    return 4


GIVEN = (b"callers", b"tick", b"mark", b"keep")


def connect(runtime, bytes library not None, host):
    """Calls into an interpreter of lupa's, before it is a sandbox.

    Args:
        runtime: lupa's `LuaRuntime`.
        library: The path of lupa's library, which has Lua in it.
        host: Who is asked, an `interpreter.Host`.

    Returns:
        ``None``, if the library does not show Lua's functions.
    """
    global opening
    if not find_lua(library):
        return None
    load = runtime.eval(b"package.loadlib")
    opened = load(__file__.encode("utf-8", "surrogateescape"), b"pocketkv_lua_open")
    if type(opened) is tuple:
        return None
    opening = Direct(runtime, host)
    try:
        opening.given = dict(zip(GIVEN, opened(), strict=True))
        return opening
    finally:
        opening = None
