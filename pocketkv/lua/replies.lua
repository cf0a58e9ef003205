-- What scripts return, as the protocol has it.

local concat, floor, huge, next, rawget = table.concat, math.floor, math.huge, next, rawget
local string_format, gsub, string_sub, type = string.format, string.gsub, string.sub, type

return function(real_of)

local NESTED_MAX = 1000
local encode
-- What `redis.setresp` said last; it also tells what booleans become.
local script_protocol = 2

local function line(text) return (gsub(text, '[\r\n]', ' ')) end

local function whole_number(value)
  -- What a C program makes of a number that is no 64-bit integer.
  if value ~= value or value >= 2^63 or value < -2^63 then return '-9223372036854775808' end
  -- Zero has no sign there.
  return string_format('%.0f', (value < 0 and -floor(-value) or floor(value)) + 0)
end

local function double(value)
  if value == huge then return 'inf' end
  if value == -huge then return '-inf' end
  return string_format('%.17g', value)
end

local function bulk(out, value)
  out[#out + 1] = '$' .. #value .. '\r\n'
  out[#out + 1] = value
  out[#out + 1] = '\r\n'
end

local function encode_error(out, value)
  local text = rawget(value, 'err')
  out[#out + 1] = '-' .. line(text) .. '\r\n'
end

local function encode_map(out, members, protocol, depth)
  local count, place = 0, #out + 1
  out[place] = ''
  for key, value in next, members do
    count = count + 1
    encode(out, key, protocol, depth + 1)
    encode(out, value, protocol, depth + 1)
  end
  out[place] = protocol == 3 and '%' .. count .. '\r\n' or '*' .. 2 * count .. '\r\n'
end

local function encode_set(out, members, protocol, depth)
  local count, place = 0, #out + 1
  out[place] = ''
  for key in next, members do
    count = count + 1
    encode(out, key, protocol, depth + 1)
  end
  out[place] = (protocol == 3 and '~' or '*') .. count .. '\r\n'
end

local function encode_table(out, value, protocol, depth)
  value = real_of[value] or value
  if type(rawget(value, 'err')) == 'string' then return encode_error(out, value) end
  local field = rawget(value, 'ok')
  if type(field) == 'string' then
    out[#out + 1] = '+' .. line(field) .. '\r\n'
    return
  end
  field = rawget(value, 'double')
  if type(field) == 'number' then
    field = double(field)
    if protocol == 3 then
      out[#out + 1] = ',' .. field .. '\r\n'
    else
      bulk(out, field)
    end
    return
  end
  field = rawget(value, 'map')
  if type(field) == 'table' then return encode_map(out, field, protocol, depth) end
  field = rawget(value, 'set')
  if type(field) == 'table' then return encode_set(out, field, protocol, depth) end
  field = rawget(value, 'big_number')
  if type(field) == 'string' then
    if protocol == 3 then
      out[#out + 1] = '(' .. line(field) .. '\r\n'
    else
      bulk(out, line(field))
    end
    return
  end
  field = rawget(value, 'verbatim_string')
  if type(field) == 'table' then
    local text, format = rawget(field, 'string'), rawget(field, 'format')
    if type(text) == 'string' and type(format) == 'string' then
      if protocol == 3 then
        bulk(out, string_sub(format .. '   ', 1, 3) .. ':' .. text)
        out[#out - 2] = '=' .. string_sub(out[#out - 2], 2)
      else
        bulk(out, text)
      end
      return
    end
  end
  local count, place = 0, #out + 1
  out[place] = ''
  while true do
    local item = rawget(value, count + 1)
    if item == nil then break end
    count = count + 1
    encode(out, item, protocol, depth + 1)
  end
  out[place] = '*' .. count .. '\r\n'
end

encode = function(out, value, protocol, depth)
  local kind = type(value)
  if depth > NESTED_MAX then
    out[#out + 1] = '-ERR reached lua stack limit\r\n'
  elseif kind == 'string' then
    bulk(out, value)
  elseif kind == 'number' then
    out[#out + 1] = ':' .. whole_number(value) .. '\r\n'
  elseif kind == 'table' then
    encode_table(out, value, protocol, depth)
  elseif kind == 'boolean' and script_protocol == 3 then
    if protocol == 3 then
      out[#out + 1] = value and '#t\r\n' or '#f\r\n'
    else
      out[#out + 1] = value and ':1\r\n' or ':0\r\n'
    end
  elseif value == true then
    out[#out + 1] = ':1\r\n'
  else
    out[#out + 1] = protocol == 3 and '_\r\n' or '$-1\r\n'
  end
end

local function encoded(value, protocol)
  local out = {}
  encode(out, value, protocol, 0)
  return concat(out)
end

return encoded, function(version) script_protocol = version end
end
