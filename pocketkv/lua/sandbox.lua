-- What scripts may touch. This runs once per interpreter, before any script, and leaves behind no
-- global: scripts get environments of their own, in which there is only what is put there here.
--
-- Nothing of Python is ever a value that a script can hold: scripts see Lua functions, which call
-- the Python ones that are locals here. Those never raise; each returns what went wrong.

local host = ...

local assert, error, getmetatable, ipairs, next = assert, error, getmetatable, ipairs, next
local pairs, pcall, rawequal, rawget, rawset = pairs, pcall, rawequal, rawget, rawset
local select, setfenv, setmetatable, tonumber = select, setfenv, setmetatable, tonumber
local tostring, type, unpack, xpcall, loadstring = tostring, type, unpack, xpcall, loadstring
local collectgarbage, gcinfo = collectgarbage, gcinfo
local sethook, getinfo = debug.sethook, debug.getinfo
local string, table, math, coroutine = string, table, math, coroutine
local clock, new_userdata = os.clock, newproxy
local dump = string.dump
local string_byte, string_find = string.byte, string.find
local string_format, string_sub = string.format, string.sub
local concat, floor, huge = table.concat, math.floor, math.huge
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local invoke, tick = host.invoke, host.tick

local OWN = getinfo(1, 'S').source
local READ_ONLY = 'Attempt to modify a readonly table'
local PATTERN_BYTES_MAX = host.pattern_bytes_max
local INSTRUCTIONS = host.instructions
local soft_kib = host.soft_kib

-- Nobody needs the real globals any more.
do
  local names = {}
  for name in pairs(_G) do names[#names + 1] = name end
  local globals = _G
  for _, name in ipairs(names) do globals[name] = nil end
end

-- --- errors -------------------------------------------------------------------------------------

local function fail(text) error({err = 'ERR ' .. text}, 0) end

-- What was raised, as a table that tells where; in the middle of what raised it.
local real_of

local function on_error(raised)
  if type(raised) ~= 'table' or real_of[raised] then
    raised = {err = 'ERR ' .. tostring(raised)}
  end
  local level = 2
  local info = getinfo(level, 'Sl')
  while info and (info.what == 'C' or info.what == 'tail' or info.source == OWN) do
    level = level + 1
    info = getinfo(level, 'Sl')
  end
  if info then
    rawset(raised, 'source', info.source)
    rawset(raised, 'line', info.currentline)
  end
  return raised
end

-- --- time and memory ----------------------------------------------------------------------------

local stopped

-- Where C calls scripts, it is told when there is something to begin with (see `begin`).
local mark = host.mark or function() end

-- Only a script is stopped, and not what tells of its end.
local function stop()
  local info = getinfo(2, 'S')
  if info and info.source ~= OWN then error({err = stopped}, 0) end
end

-- With each instruction from now on, so that a script cannot catch it and go on.
local function end_script(text)
  stopped = text
  mark()
  sethook(stop, '', 1)
  error({err = text}, 0)
end

-- Python cannot be called while there is no room for what it gives: it has no way to fail there.
local function check_room()
  if collectgarbage('count') > soft_kib then
    collectgarbage()
    if collectgarbage('count') > soft_kib then end_script('ERR not enough memory') end
  end
end

local function on_count()
  if stopped then end_script(stopped) end
  check_room()
  local text = tick()
  if text then end_script(text) end
end
sethook(on_count, '', INSTRUCTIONS)

-- --- tables that cannot be changed --------------------------------------------------------------

-- Scripts hold an empty table in place of each, which gives what the real one has.
real_of = setmetatable({}, {__mode = 'k'})
local meta_of = setmetatable({}, {__mode = 'k'})

local function refuse_change() error(READ_ONLY, 2) end

local function protected(real)
  local shown = setmetatable({}, {__index = real, __newindex = refuse_change})
  real_of[shown] = real
  -- What getmetatable shows is as protected.
  local meta = setmetatable({}, {__newindex = refuse_change, __metatable = false})
  real_of[meta] = {}
  meta_of[shown] = getmetatable(shown)
  meta_of[shown].__metatable = meta
  return shown
end

local function check_table(value)
  if real_of[value] then error(READ_ONLY, 0) end
end

local function missing_global(_, name)
  error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
end

local base = {_VERSION = _VERSION or 'Lua 5.1'}
base.assert, base.error, base.getmetatable, base.ipairs = assert, error, getmetatable, ipairs
base.rawequal, base.select, base.tonumber, base.tostring = rawequal, select, tonumber, tostring
base.type, base.unpack, base.gcinfo = type, unpack, gcinfo
base.collectgarbage = collectgarbage

function base.setmetatable(...)
  check_table((...))
  return setmetatable(...)
end

function base.rawset(...)
  check_table((...))
  return rawset(...)
end

function base.rawget(of, ...)
  return rawget(real_of[of] or of, ...)
end

local function next_shown(of, key)
  return next(real_of[of] or of, key)
end

function base.next(...)
  local of = ...
  if real_of[of] then return next(real_of[of], (select(2, ...))) end
  return next(...)
end

function base.pairs(...)
  local of = ...
  if real_of[of] then return next_shown, of, nil end
  return pairs(...)
end

-- Where there is no stack left the hook above cannot be called either: nobody may catch that.
local function is_overflow(raised)
  return type(raised) == 'string' and
    (string_find(raised, 'stack overflow', 1, true) or raised == 'error in error handling')
end

-- A caught error is its text, as `redis.call` raises tables.
local function caught(ok, raised, ...)
  if not ok then
    if is_overflow(raised) then error(raised, 0) end
    if type(raised) == 'table' and type(raised.err) == 'string' then return ok, raised.err end
  end
  return ok, raised, ...
end

function base.pcall(...) return caught(pcall(...)) end

function base.xpcall(body, handler)
  local overflow
  local function checked(raised)
    if is_overflow(raised) then
      overflow = raised
      return raised
    end
    return handler(raised)
  end
  local function passed(ok, ...)
    if not ok and (overflow or is_overflow((...))) then error(overflow or (...), 0) end
    return ok, ...
  end
  return passed(xpcall(body, checked))
end

-- --- code from text -----------------------------------------------------------------------------

-- A call that ends a function would take its place on the stack, and an error would not tell where.
local function compile(code, name, environment)
  if string_byte(code, 1) == 27 then return nil, 'bytecode is not loaded' end
  local made, text = loadstring(code, name)
  if not made then return nil, text end
  check_room()
  made = assert(loadstring(host.without_tail_calls(dump(made)), name))
  setfenv(made, environment)
  return made
end

local function loaders(environment)
  local function load_text(code, name)
    if type(code) ~= 'string' then
      error("bad argument #1 to 'loadstring' (string expected, got " .. type(code) .. ')', 2)
    end
    return compile(code, name or code, environment)
  end
  local function load_pieces(give, name)
    local pieces = {}
    while true do
      local piece = give()
      if piece == nil or piece == '' then break end
      if type(piece) ~= 'string' then return nil, 'reader function must return a string' end
      pieces[#pieces + 1] = piece
    end
    return compile(concat(pieces), name or '=(load)', environment)
  end
  return load_text, load_pieces
end

-- --- libraries ----------------------------------------------------------------------------------

local function copied(library, names)
  local copy = {}
  for name in names:gmatch('%S+') do copy[name] = assert(library[name], name) end
  return copy
end

local strings = copied(string, [[byte char find format gmatch gsub len lower match rep reverse sub
  upper gfind dump]])
local tables = copied(table, 'concat foreach foreachi getn insert maxn remove setn sort')
local maths = copied(math, [[abs acos asin atan2 atan ceil cosh cos deg exp floor fmod frexp huge
  ldexp log10 log max min mod modf pi pow rad sinh sin sqrt tanh tan]])
local coroutines = copied(coroutine, 'running status yield')

-- The matcher calls itself for each item of a pattern, on the stack of the process.
local function guarded(find)
  return function(...)
    local pattern = select(2, ...)
    if type(pattern) == 'string' and #pattern > PATTERN_BYTES_MAX then
      error('malformed pattern (too long)', 2)
    end
    return find(...)
  end
end
for _, name in ipairs({'find', 'gmatch', 'gsub', 'match', 'gfind'}) do
  strings[name] = guarded(strings[name])
end

for _, name in ipairs({'insert', 'remove', 'sort', 'setn'}) do
  local change = tables[name]
  tables[name] = function(...)
    check_table((...))
    return change(...)
  end
end

-- A 48-bit congruence, as drand48 before it is seeded.
local random_high, random_low = 0x1234AB, 0xCD330E
local function seed(number)
  number = number % 4294967296
  random_high = floor(number / 256)
  random_low = (number % 256) * 65536 + 0x330E
end
local function draw()
  local low = random_low * 15525485 + 11
  local high = random_high * 15525485 + random_low * 1502 + floor(low / 16777216)
  random_low = low % 16777216
  random_high = high % 16777216
  return (random_high * 128 + floor(random_low / 131072)) % 2147483647 / 2147483647
end
local function whole(value, position)
  local number = tonumber(value)
  if not number then
    error("bad argument #" .. position .. " to 'random' (number expected, got " ..
          (value == nil and 'no value' or type(value)) .. ')', 3)
  end
  return number < 0 and -floor(-number) or floor(number)
end
function maths.random(...)
  local count = select('#', ...)
  local drawn = draw()
  if count == 0 then return drawn end
  if count > 2 then error('wrong number of arguments', 2) end
  local low, high = 1, whole((...), 1)
  if count == 2 then low, high = high, whole(select(2, ...), 2) end
  if low > high then
    error("bad argument #" .. count .. " to 'random' (interval is empty)", 2)
  end
  return floor(drawn * (high - low + 1)) + low
end
function maths.randomseed(...)
  seed(whole((...), 1))
end

-- A coroutine is counted as what made it is. Each that is resumed within another takes the
-- process's stack, which Lua does not count.
local NESTED_COROUTINES_MAX = 50
local nested = 0

local function left(ok, ...)
  nested = nested - 1
  if not ok and is_overflow((...)) then error((...), 0) end
  return ok, ...
end
local function enter(made, ...)
  if nested >= NESTED_COROUTINES_MAX then error('C stack overflow', 0) end
  nested = nested + 1
  mark()
  return left(resume(made, ...))
end
coroutines.resume = function(made, ...)
  if type(made) ~= 'thread' then return resume(made, ...) end
  return enter(made, ...)
end
function coroutines.create(body)
  local made = create(body)
  sethook(made, stopped and stop or on_count, '', stopped and 1 or INSTRUCTIONS)
  return made
end
local function passed_on(ok, ...)
  if ok then return ... end
  local raised = ...
  error(raised, type(raised) == 'string' and not is_overflow(raised) and 3 or 0)
end
function coroutines.wrap(body)
  local made = coroutines.create(body)
  return function(...) return passed_on(enter(made, ...)) end
end

local bits, structs, packs, jsons = {}, {}, {}, {}
local modules = {bit = bits, struct = structs, cmsgpack = packs, cjson = jsons}

-- --- the API ------------------------------------------------------------------------------------

local set_script_protocol
-- Whether this script has.
local has_set_protocol = false
local redis = {
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
  REDIS_VERSION = host.version, REDIS_VERSION_NUM = host.version_number,
}

-- More would not fit on the way to Python, where they take room on Lua's stack twice.
local ARGUMENTS_MAX = 200
local function invoke_all(...)
  if gcinfo() > soft_kib then check_room() end
  local count = select('#', ...)
  if count <= ARGUMENTS_MAX then return invoke(...) end
  return host.invoke_many({...}, count)
end

local function answer(reply, failure, status, counted)
  if failure then return {err = failure, ignore_error_stats_update = counted or nil}, true end
  if status then return {ok = status} end
  return reply
end

function redis.call(...)
  local reply, is_failure = answer(invoke_all(...))
  if is_failure then error(reply, 0) end
  return reply
end

function redis.pcall(...) return (answer(invoke_all(...))) end

-- The same in C.
if host.callers then redis.call, redis.pcall = host.callers(check_room, soft_kib) end

function redis.sha1hex(...)
  if select('#', ...) ~= 1 then fail('wrong number of arguments') end
  check_room()
  local text = ...
  return host.sha1hex(type(text) == 'number' and tostring(text) or type(text) == 'string' and text or '')
end

function redis.error_reply(...)
  local text = ...
  if select('#', ...) ~= 1 or type(text) ~= 'string' then
    return {err = 'ERR wrong number or type of arguments'}
  end
  if string_byte(text, 1) == 45 then text = string_sub(text, 2) end
  if not string.find(text, ' ', 1, true) then text = 'ERR ' .. text end
  return {err = (string.gsub(text, '[\r\n]+$', ''))}
end

function redis.status_reply(...)
  local text = ...
  if select('#', ...) ~= 1 or type(text) ~= 'string' then
    return {err = 'ERR wrong number or type of arguments'}
  end
  return {ok = text}
end

function redis.log(...)
  local count = select('#', ...)
  if count < 2 then fail('redis.log() requires two arguments or more.') end
  local level = tonumber((...))
  if type((...)) ~= 'number' then fail('First argument must be a number (log level).') end
  if level < 0 or level > 3 then fail('Invalid debug level.') end
  local words = {}
  for i = 2, count do
    local word = select(i, ...)
    if type(word) == 'string' or type(word) == 'number' then words[#words + 1] = tostring(word) end
  end
  check_room()
  host.log(level, concat(words, ' '))
end

function redis.setresp(...)
  if select('#', ...) ~= 1 then fail('redis.setresp() requires one argument.') end
  local version = tonumber((...))
  if version ~= 2 and version ~= 3 then fail('RESP version must be 2 or 3.') end
  host.setresp(version)
  set_script_protocol(version)
  has_set_protocol = true
  mark()
end

function redis.set_repl(...)
  if select('#', ...) ~= 1 then fail('redis.set_repl() requires two arguments.') end
  local flags = tonumber((...)) or 0
  if flags < 0 or flags > 3 or flags ~= floor(flags) then
    fail('Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.')
  end
end

function redis.acl_check_cmd(...)
  check_room()
  local allowed, failure = host.acl_check_cmd(...)
  if failure then error({err = failure}, 0) end
  return allowed
end

function redis.replicate_commands() return true end
function redis.breakpoint() return false end
function redis.debug() end

local encoded, set_protocol = host.replies(real_of)
set_script_protocol = set_protocol

-- What a run came to: a value as it is; or how to take it, and the result.
local ENCODED, ERROR, STATUS, ERROR_REPLY = 1, 2, 3, 4

local function is_counted(failure)
  return rawget(failure, 'ignore_error_stats_update') == true
end

local function finished(protocol, ok, value)
  if ok then
    local kind = type(value)
    if kind == 'string' or kind == 'number' then return value end
    if kind ~= 'table' and kind ~= 'boolean' then return nil end
    if kind == 'table' then
      -- What scripts answer most. A protected table has neither of its own.
      local text = rawget(value, 'err')
      if type(text) == 'string' then return ERROR_REPLY, text, is_counted(value) end
      text = rawget(value, 'ok')
      if type(text) == 'string' then return STATUS, text end
    end
    check_room()
    ok, value = xpcall(function() return encoded(value, protocol) end, on_error)
    if ok then return ENCODED, value end
  end
  if type(value) ~= 'table' then
    -- Not even the handler of errors had room.
    return ERROR, 'ERR ' .. tostring(value), false
  end
  local text = value.err
  text = type(text) == 'string' and text or 'ERR unknown error'
  return ERROR, text, is_counted(value), value.source, value.line
end

-- --- environments -------------------------------------------------------------------------------

-- What `host` asks for.
local out = {}

local function environment(api)
  local globals = {}
  for name, value in next, base do globals[name] = value end
  globals.loadstring, globals.load = nil, nil
  globals.string, globals.table, globals.math = protected(strings), protected(tables), protected(maths)
  globals.coroutine, globals.os = protected(coroutines), protected({clock = clock})
  for name, module in next, modules do globals[name] = protected(module) end
  globals.redis = protected(api)
  local shown = protected(globals)
  globals._G = shown
  globals.loadstring, globals.load = loaders(shown)
  setmetatable(globals, {__index = missing_global})
  return shown, globals
end

local shown, globals = environment(redis)

-- Methods of strings: scripts see what they are, and cannot change them.
do
  local meta = getmetatable('')
  meta.__index = strings
  meta.__metatable = protected({__index = globals.string})
end

local function begin()
  nested = 0
  if has_set_protocol then
    set_script_protocol(2)
    has_set_protocol = false
  end
  if stopped then
    stopped = nil
    sethook(on_count, '', INSTRUCTIONS)
  end
end

out.begin, out.finished, out.globals, out.on_error = begin, finished, globals, on_error

function out.compile(code) return compile(code, '@user_script', shown) end

local function split_first(key, ...) return {key}, {...} end

local function split(key_count, ...)
  if key_count == 1 then return split_first(...) end
  if key_count == 0 then return {}, {...} end
  local count = select('#', ...)
  if key_count == count then return {...}, {} end
  local keys, rest = {...}, {select(key_count + 1, ...)}
  for i = count, key_count + 1, -1 do keys[i] = nil end
  return keys, rest
end

local function run_with(script, protocol, keys, arguments)
  begin()
  globals.KEYS, globals.ARGV = keys, arguments
  return finished(protocol, xpcall(script, on_error))
end

function out.run(script, protocol, key_count, ...)
  return run_with(script, protocol, split(key_count, ...))
end

out.run_tables = run_with

-- --- functions ----------------------------------------------------------------------------------

local function call_with(body, protocol, keys, arguments)
  begin()
  return finished(protocol, xpcall(function() return body(keys, arguments) end, on_error))
end

function out.call(body, protocol, key_count, ...)
  return call_with(body, protocol, split(key_count, ...))
end

out.call_tables = call_with

local register, set_loading = host.registering(fail, check_room, host.register)

-- While libraries are loaded they see next to nothing; their functions see all when they are called.
local load_api = setmetatable({register_function = register, log = redis.log}, {__index = missing_global})
for name, value in next, redis do
  if name:match('^LOG_') or name:match('^REDIS_') then load_api[name] = value end
end
local library_shown, library_globals = environment(redis)
local load_globals = setmetatable({redis = protected(load_api)}, {__index = missing_global})

function out.load_library(code)
  begin()
  local body, text = compile(code, '@user_function', library_shown)
  if not body then return 'ERR Error compiling function: ' .. text end
  local meta = meta_of[library_shown]
  meta.__index = load_globals
  set_loading(true)
  local ok, raised = xpcall(body, on_error)
  set_loading(false)
  meta.__index = library_globals
  if ok then return nil end
  local message = type(raised) == 'table' and raised.err or tostring(raised)
  if type(message) ~= 'string' then message = 'ERR unknown error' end
  return 'ERR Error registering functions: ' .. message
end

-- Modules are filled by their own files, which get what they may use.
out.modules = modules
out.tools = {
  real_of = real_of, host = host, newproxy = new_userdata, error = error, pcall = pcall,
  ipairs = ipairs, select = select, tostring = tostring, type = type, tonumber = tonumber,
  next = next, rawget = rawget, unpack = unpack, floor = floor, frexp = math.frexp, huge = huge,
  ldexp = math.ldexp, concat = concat, byte = string_byte, char = string.char, find = string.find,
  format = string_format, gsub = string.gsub, rep = string.rep, sub = string_sub,
}
return out
