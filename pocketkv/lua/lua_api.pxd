# What of Lua 5.1's own interface `direct.pyx` uses, found by name in the library that lupa brings.

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <stddef.h>

    /* What of Lua 5.1's interface is used; its headers need not be there. */
    typedef struct lua_State lua_State;
    typedef int (*lua_CFunction)(lua_State *);

    static struct {
        void (*call)(lua_State *, int, int);
        int (*checkstack)(lua_State *, int);
        void (*createtable)(lua_State *, int, int);
        int (*error)(lua_State *);
        int (*gc)(lua_State *, int, int);
        int (*getmetatable)(lua_State *, int);
        int (*gettop)(lua_State *);
        int (*next)(lua_State *, int);
        int (*pcall)(lua_State *, int, int, int);
        void (*pushboolean)(lua_State *, int);
        void (*pushcclosure)(lua_State *, lua_CFunction, int);
        void (*pushlightuserdata)(lua_State *, void *);
        void (*pushlstring)(lua_State *, const char *, size_t);
        void (*pushnil)(lua_State *);
        void (*pushnumber)(lua_State *, double);
        void (*pushvalue)(lua_State *, int);
        void (*rawget)(lua_State *, int);
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
        return library && FIND(call, "lua_call") && FIND(checkstack, "lua_checkstack")
            && FIND(createtable, "lua_createtable") && FIND(error, "lua_error")
            && FIND(gc, "lua_gc") && FIND(getmetatable, "lua_getmetatable")
            && FIND(gettop, "lua_gettop") && FIND(next, "lua_next") && FIND(pcall, "lua_pcall")
            && FIND(pushboolean, "lua_pushboolean") && FIND(pushcclosure, "lua_pushcclosure")
            && FIND(pushlightuserdata, "lua_pushlightuserdata")
            && FIND(pushlstring, "lua_pushlstring") && FIND(pushnil, "lua_pushnil")
            && FIND(pushnumber, "lua_pushnumber") && FIND(pushvalue, "lua_pushvalue")
            && FIND(rawget, "lua_rawget") && FIND(rawgeti, "lua_rawgeti") && FIND(rawset, "lua_rawset")
            && FIND(rawseti, "lua_rawseti") && FIND(ref, "luaL_ref")
            && FIND(settop, "lua_settop") && FIND(toboolean, "lua_toboolean")
            && FIND(tolstring, "lua_tolstring") && FIND(tonumber, "lua_tonumber")
            && FIND(touserdata, "lua_touserdata") && FIND(type, "lua_type")
            && FIND(unref, "luaL_unref");
    }
    """
    ctypedef struct lua_State
    ctypedef int (*lua_CFunction)(lua_State *) noexcept nogil
    ctypedef struct Interface:
        void (*call)(lua_State *, int, int) noexcept nogil
        int (*checkstack)(lua_State *, int) noexcept
        void (*createtable)(lua_State *, int, int) noexcept
        int (*error)(lua_State *) noexcept nogil
        int (*gc)(lua_State *, int, int) noexcept nogil
        int (*getmetatable)(lua_State *, int) noexcept
        int (*gettop)(lua_State *) noexcept
        int (*next)(lua_State *, int) noexcept
        int (*pcall)(lua_State *, int, int, int) noexcept
        void (*pushboolean)(lua_State *, int) noexcept
        void (*pushcclosure)(lua_State *, lua_CFunction, int) noexcept
        void (*pushlightuserdata)(lua_State *, void *) noexcept
        void (*pushlstring)(lua_State *, const char *, size_t) noexcept
        void (*pushnil)(lua_State *) noexcept
        void (*pushnumber)(lua_State *, double) noexcept
        void (*pushvalue)(lua_State *, int) noexcept nogil
        void (*rawget)(lua_State *, int) noexcept
        void (*rawgeti)(lua_State *, int, int) noexcept
        void (*rawset)(lua_State *, int) noexcept
        void (*rawseti)(lua_State *, int, int) noexcept
        int (*ref)(lua_State *, int) noexcept
        void (*settop)(lua_State *, int) noexcept
        int (*toboolean)(lua_State *, int) noexcept
        const char *(*tolstring)(lua_State *, int, size_t *) noexcept
        double (*tonumber)(lua_State *, int) noexcept nogil
        void *(*touserdata)(lua_State *, int) noexcept
        int (*type)(lua_State *, int) noexcept
        void (*unref)(lua_State *, int, int) noexcept
    Interface lua
    int find_lua(const char *path) noexcept
