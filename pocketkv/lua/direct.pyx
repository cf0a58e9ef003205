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

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <stddef.h>

    /* What of Lua 5.1's interface is used; its headers need not be there. */
    typedef struct lua_State lua_State;
    typedef int (*lua_CFunction)(lua_State *);

    static struct {
        int (*checkstack)(lua_State *, int);
        void (*createtable)(lua_State *, int, int);
        int (*gc)(lua_State *, int, int);
        int (*gettop)(lua_State *);
        int (*pcall)(lua_State *, int, int, int);
        void (*pushboolean)(lua_State *, int);
        void (*pushcclosure)(lua_State *, lua_CFunction, int);
        void (*pushlightuserdata)(lua_State *, void *);
        void (*pushlstring)(lua_State *, const char *, size_t);
        void (*pushnil)(lua_State *);
        void (*pushnumber)(lua_State *, double);
        void (*pushvalue)(lua_State *, int);
        void (*rawgeti)(lua_State *, int, int);
        void (*rawset)(lua_State *, int);
        void (*rawseti)(lua_State *, int, int);
        int (*ref)(lua_State *, int);
        void (*settop)(lua_State *, int);
        int (*toboolean)(lua_State *, int);
        const char *(*tolstring)(lua_State *, int, size_t *);
        double (*tonumber)(lua_State *, int);
        void *(*touserdata)(lua_State *, int);
        int (*type)(lua_State *, int);
        void (*unref)(lua_State *, int, int);
    } lua;

    #define FIND(field, name) (*(void **)&lua.field = dlsym(library, name))

    static int find_lua(const char *path) {
        /* It is loaded already; this only finds it again. */
        void *library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        return library && FIND(checkstack, "lua_checkstack") && FIND(createtable, "lua_createtable")
            && FIND(gc, "lua_gc") && FIND(gettop, "lua_gettop") && FIND(pcall, "lua_pcall")
            && FIND(pushboolean, "lua_pushboolean") && FIND(pushcclosure, "lua_pushcclosure")
            && FIND(pushlightuserdata, "lua_pushlightuserdata")
            && FIND(pushlstring, "lua_pushlstring") && FIND(pushnil, "lua_pushnil")
            && FIND(pushnumber, "lua_pushnumber") && FIND(pushvalue, "lua_pushvalue")
            && FIND(rawgeti, "lua_rawgeti") && FIND(rawset, "lua_rawset")
            && FIND(rawseti, "lua_rawseti") && FIND(ref, "luaL_ref")
            && FIND(settop, "lua_settop") && FIND(toboolean, "lua_toboolean")
            && FIND(tolstring, "lua_tolstring") && FIND(tonumber, "lua_tonumber")
            && FIND(touserdata, "lua_touserdata") && FIND(type, "lua_type")
            && FIND(unref, "luaL_unref");
    }
    """
    ctypedef struct lua_State
    ctypedef int (*lua_CFunction)(lua_State *) noexcept
    ctypedef struct Interface:
        int (*checkstack)(lua_State *, int) noexcept
        void (*createtable)(lua_State *, int, int) noexcept
        int (*gc)(lua_State *, int, int) noexcept
        int (*gettop)(lua_State *) noexcept
        int (*pcall)(lua_State *, int, int, int) noexcept
        void (*pushboolean)(lua_State *, int) noexcept
        void (*pushcclosure)(lua_State *, lua_CFunction, int) noexcept
        void (*pushlightuserdata)(lua_State *, void *) noexcept
        void (*pushlstring)(lua_State *, const char *, size_t) noexcept
        void (*pushnil)(lua_State *) noexcept
        void (*pushnumber)(lua_State *, double) noexcept
        void (*pushvalue)(lua_State *, int) noexcept
        void (*rawgeti)(lua_State *, int, int) noexcept
        void (*rawset)(lua_State *, int) noexcept
        void (*rawseti)(lua_State *, int, int) noexcept
        int (*ref)(lua_State *, int) noexcept
        void (*settop)(lua_State *, int) noexcept
        int (*toboolean)(lua_State *, int) noexcept
        const char *(*tolstring)(lua_State *, int, size_t *) noexcept
        double (*tonumber)(lua_State *, int) noexcept
        void *(*touserdata)(lua_State *, int) noexcept
        int (*type)(lua_State *, int) noexcept
        void (*unref)(lua_State *, int, int) noexcept
    Interface lua
    int find_lua(const char *path) noexcept

# Of lua.h.
cdef enum:
    REGISTRY = -10000
    # The first value that a function of C was made with.
    OWNER = -10003
    ALL_RESULTS = -1
    NO_MEMORY = 4
    USED_KIB = 3
    BOOLEAN = 1
    NUMBER = 3
    STRING = 4

# What a function may put on Lua's stack without asking.
cdef enum:
    ROOM = 20

cdef bytes DEFECT = b"ERR internal error"


class OutOfMemory(Exception):
    """Lua has no memory left."""


class Failed(Exception):
    """Lua failed outside of a script's code; the argument is why."""


@cython.final
@cython.freelist(16)
cdef class Table:
    """A list, or a dict, that becomes a table of Lua. Unlike these it may be a key in another."""

    cdef object items

    def __init__(self, items):
        self.items = items


@cython.final
@cython.no_gc_clear
cdef class Body:
    """A function of Lua, which stays while this does."""

    cdef Direct _direct
    cdef int _ref

    def __dealloc__(self):
        if self._direct is not None:
            lua.unref(self._direct._state, REGISTRY, self._ref)


@cython.final
@cython.no_gc_clear
cdef class Direct:
    """Calls into one interpreter, and out of it.

    Attributes:
        invoke, tick: Functions of Lua, as `Host.invoke` and `Host.tick`.
    """

    cdef lua_State *_state
    cdef object _runtime, _invoke, _tick, _keep, _raised
    cdef readonly object invoke, tick

    def __init__(self, runtime, host):
        self._runtime = runtime
        self._invoke = host.invoke_list
        self._tick = host.tick

    def table(self, items):
        """What `Host.invoke_list` gives for a list or a dict that is to be a table."""
        cdef Table made = Table.__new__(Table)
        made.items = items
        return made

    def body(self, function):
        """A function of Lua, to be given to `run`."""
        cdef Body made = Body.__new__(Body)
        made._ref = self._keep(function)
        made._direct = self
        return made

    def used_kib(self):
        """Memory that Lua takes."""
        return lua.gc(self._state, USED_KIB, 0)

    def run(self, Body entry not None, Body code not None, int protocol, list given not None, Py_ssize_t key_count):
        """Call ``entry(code, protocol, keys, arguments)``; what it returns, several in a tuple.

        Raises:
            OutOfMemory, Failed: Lua failed.
            BaseException: What the host raised against its promise.
        """
        cdef lua_State *state = self._state
        cdef int top = lua.gettop(state)
        cdef Py_ssize_t count = len(given)
        if not lua.checkstack(state, ROOM):
            raise OutOfMemory
        cdef int status
        self._raised = None
        try:
            lua.rawgeti(state, REGISTRY, entry._ref)
            lua.rawgeti(state, REGISTRY, code._ref)
            lua.pushnumber(state, protocol)
            push_strings(state, given, 0, key_count)
            push_strings(state, given, key_count, count)
            status = lua.pcall(state, 4, ALL_RESULTS, 0)
            if self._raised is not None:
                raised, self._raised = self._raised, None
                raise raised
            if status == 0:
                return results(state, top)
            if status == NO_MEMORY:
                raise OutOfMemory
            text = taken(state, -1)
            raise Failed(text if type(text) is bytes else b"unknown error")
        finally:
            lua.settop(state, top)

    cdef int answer(self, lua_State *state) except -1:
        """`Host.invoke_list` with what is on Lua's stack; how many values it answered."""
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
        for value in <tuple>reply:
            push(state, value)
        return <int>len(<tuple>reply)


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
        raise OutOfMemory
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


cdef int call_host(lua_State *state) noexcept with gil:
    cdef Direct direct = <Direct>lua.touserdata(state, OWNER)
    try:
        if direct._raised is None:
            return direct.answer(state)
    except BaseException as error:
        direct._raised = error
    lua.settop(state, 0)
    lua.pushnil(state)
    lua.pushlstring(state, DEFECT, len(DEFECT))
    return 2


cdef int call_tick(lua_State *state) noexcept with gil:
    cdef Direct direct = <Direct>lua.touserdata(state, OWNER)
    try:
        if direct._raised is None:
            push(state, direct._tick())
            return 1
    except BaseException as error:
        direct._raised = error
    lua.pushlstring(state, DEFECT, len(DEFECT))
    return 1


cdef int keep_function(lua_State *state) noexcept with gil:
    lua.settop(state, 1)
    lua.pushnumber(state, lua.ref(state, REGISTRY))
    return 1


# Who is being connected; Lua gives what loads a function nothing but its state.
cdef Direct opening = None


cdef public int pocketkv_lua_open(lua_State *state) noexcept with gil:
    """Called by Lua: functions for `opening`."""
    opening._state = state
    lua.pushlightuserdata(state, <void *>opening)
    lua.pushcclosure(state, call_host, 1)
    lua.pushlightuserdata(state, <void *>opening)
    lua.pushcclosure(state, call_tick, 1)
    lua.pushcclosure(state, keep_function, 0)
    return 3


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
        opening.invoke, opening.tick, opening._keep = opened()
        return opening
    finally:
        opening = None
