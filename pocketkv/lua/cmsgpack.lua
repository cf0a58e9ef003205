-- MessagePack: `cmsgpack`.

local cmsgpack, tools = ...
local byte, char, concat, error, floor = tools.byte, tools.char, tools.concat, tools.error, tools.floor
local huge, next, rawget, select, sub = tools.huge, tools.next, tools.rawget, tools.select, tools.sub
local tostring, type, unpack = tools.tostring, tools.type, tools.unpack
local put_float, get_float = tools.put_float, tools.get_float
local put_integer, get_integer = tools.put_integer, tools.get_integer
local real_of = tools.real_of

cmsgpack._NAME, cmsgpack._VERSION = 'cmsgpack', 'lua-cmsgpack 0.4.0'
cmsgpack._COPYRIGHT, cmsgpack._DESCRIPTION = '', 'MessagePack C implementation for Lua'

-- Deeper tables are packed as nil.
local NESTED_MAX = 16

-- --- packing ------------------------------------------------------------------------------------

local pack_value

local function head(out, size, small, small_max, code8, code16, code32)
  if size <= small_max then
    out[#out + 1] = char(small + size)
  elseif code8 and size <= 255 then
    out[#out + 1] = char(code8, size)
  elseif size <= 65535 then
    out[#out + 1] = char(code16) .. put_integer(size, 2, false)
  else
    out[#out + 1] = char(code32) .. put_integer(size, 4, false)
  end
end

local function pack_integer(out, number)
  if number >= 0 then
    if number <= 127 then
      out[#out + 1] = char(number)
    elseif number <= 255 then
      out[#out + 1] = char(0xcc, number)
    elseif number <= 65535 then
      out[#out + 1] = '\205' .. put_integer(number, 2, false)
    elseif number <= 4294967295 then
      out[#out + 1] = '\206' .. put_integer(number, 4, false)
    else
      out[#out + 1] = '\207' .. put_integer(number, 8, false)
    end
  elseif number >= -32 then
    out[#out + 1] = char(256 + number)
  elseif number >= -128 then
    out[#out + 1] = char(0xd0, 256 + number)
  elseif number >= -32768 then
    out[#out + 1] = '\209' .. put_integer(number, 2, false)
  elseif number >= -2147483648 then
    out[#out + 1] = '\210' .. put_integer(number, 4, false)
  else
    out[#out + 1] = '\211' .. put_integer(number, 8, false)
  end
end

local function pack_number(out, number)
  if number == floor(number) and number >= -2 ^ 63 and number < 2 ^ 63 then
    return pack_integer(out, number)
  end
  -- Four bytes, if they tell all of it.
  local short = put_float(number, 4, false)
  if get_float(short, 1, 4, false) == number then
    out[#out + 1] = '\202' .. short
  else
    out[#out + 1] = '\203' .. put_float(number, 8, false)
  end
end

-- How many elements a table has if it is an array: keys 1 to n, and no others.
local function array_size(value)
  local count, largest = 0, 0
  for key in next, value do
    if type(key) ~= 'number' or key <= 0 or key ~= floor(key) then return nil end
    count = count + 1
    if key > largest then largest = key end
  end
  return largest == count and count or nil
end

local function pack_table(out, value, depth)
  value = real_of[value] or value
  local size = array_size(value)
  if size then
    head(out, size, 0x90, 15, nil, 0xdc, 0xdd)
    for i = 1, size do pack_value(out, rawget(value, i), depth + 1) end
    return
  end
  size = 0
  for _ in next, value do size = size + 1 end
  head(out, size, 0x80, 15, nil, 0xde, 0xdf)
  for key, item in next, value do
    pack_value(out, key, depth + 1)
    pack_value(out, item, depth + 1)
  end
end

pack_value = function(out, value, depth)
  local kind = type(value)
  if kind == 'string' then
    head(out, #value, 0xa0, 31, 0xd9, 0xda, 0xdb)
    out[#out + 1] = value
  elseif kind == 'number' then
    pack_number(out, value)
  elseif kind == 'boolean' then
    out[#out + 1] = value and '\195' or '\194'
  elseif kind == 'table' and depth < NESTED_MAX then
    pack_table(out, value, depth)
  else
    out[#out + 1] = '\192'
  end
end

function cmsgpack.pack(...)
  local count = select('#', ...)
  if count == 0 then error("bad argument #0 to 'pack' (MessagePack pack needs input.)", 2) end
  local out = {}
  for i = 1, count do pack_value(out, (select(i, ...)), 0) end
  return concat(out)
end

-- --- unpacking ----------------------------------------------------------------------------------

local MISSING = 'Missing bytes in input.'
local BAD = 'Bad data format in input.'

local unpack_value

local function need(data, at, count)
  if at + count - 1 > #data then error(MISSING, 0) end
end

local function get_text(data, at, size)
  need(data, at, size)
  return sub(data, at, at + size - 1), at + size
end

local function get_array(data, at, size, depth)
  local items = {}
  for i = 1, size do items[i], at = unpack_value(data, at, depth) end
  return items, at
end

local function get_map(data, at, size, depth)
  local items = {}
  for _ = 1, size do
    local key, value
    key, at = unpack_value(data, at, depth)
    value, at = unpack_value(data, at, depth)
    -- Lua has no such keys.
    if key ~= nil and key == key then items[key] = value end
  end
  return items, at
end

local SIZED = {
  [0xc4] = {1, get_text}, [0xc5] = {2, get_text}, [0xc6] = {4, get_text},
  [0xd9] = {1, get_text}, [0xda] = {2, get_text}, [0xdb] = {4, get_text},
  [0xdc] = {2, get_array}, [0xdd] = {4, get_array},
  [0xde] = {2, get_map}, [0xdf] = {4, get_map},
}
local NUMBERS = {
  [0xcc] = {1, false}, [0xcd] = {2, false}, [0xce] = {4, false}, [0xcf] = {8, false},
  [0xd0] = {1, true}, [0xd1] = {2, true}, [0xd2] = {4, true}, [0xd3] = {8, true},
}

unpack_value = function(data, at, depth)
  need(data, at, 1)
  -- Lua's own stack is as deep as the data says.
  if depth > 5000 then error(BAD, 0) end
  depth = depth + 1
  local code = byte(data, at)
  at = at + 1
  if code <= 0x7f then return code, at end
  if code >= 0xe0 then return code - 256, at end
  if code <= 0x8f then return get_map(data, at, code - 0x80, depth) end
  if code <= 0x9f then return get_array(data, at, code - 0x90, depth) end
  if code <= 0xbf then return get_text(data, at, code - 0xa0) end
  if code == 0xc0 then return nil, at end
  if code == 0xc2 then return false, at end
  if code == 0xc3 then return true, at end
  if code == 0xca or code == 0xcb then
    local size = code == 0xca and 4 or 8
    need(data, at, size)
    return get_float(data, at, size, false), at + size
  end
  local number = NUMBERS[code]
  if number then
    need(data, at, number[1])
    return get_integer(data, at, number[1], false, number[2]), at + number[1]
  end
  local sized = SIZED[code]
  if not sized then error(BAD, 0) end
  need(data, at, sized[1])
  local size = get_integer(data, at, sized[1], false, false)
  return sized[2](data, at + sized[1], size, depth)
end

local function checked_text(value, name)
  if type(value) == 'number' then return tostring(value) end
  if type(value) ~= 'string' then
    local kind = type(value)
    error("bad argument #1 to '" .. name .. "' (string expected, got " .. kind .. ')', 3)
  end
  return value
end

local function unpack_some(data, offset, limit, name)
  if offset < 0 or limit < 0 then
    error('Invalid request to unpack with offset of ' .. offset .. ' and limit of ' .. #data .. '.', 3)
  end
  if offset > #data then
    error('Start offset ' .. offset .. ' greater than input length ' .. #data .. '.', 3)
  end
  local all = limit == 0 and offset == 0
  if all then limit = huge end
  local values, count, at = {}, 0, offset + 1
  while at <= #data and count < limit do
    if count >= 7000 then error('too many results to unpack', 3) end
    count = count + 1
    local ok, value, after = tools.pcall(unpack_value, data, at, 0)
    if not ok then error(value, type(value) == 'string' and 3 or 0) end
    values[count], at = value, after
  end
  if all then return unpack(values, 1, count) end
  return at > #data and -1 or at - 1, unpack(values, 1, count)
end

function cmsgpack.unpack(data)
  return unpack_some(checked_text(data, 'unpack'), 0, 0, 'unpack')
end

function cmsgpack.unpack_one(data, offset)
  return unpack_some(checked_text(data, 'unpack_one'), offset or 0, 1, 'unpack_one')
end

function cmsgpack.unpack_limit(data, limit, offset)
  return unpack_some(checked_text(data, 'unpack_limit'), offset or 0, limit or 0, 'unpack_limit')
end
