-- JSON: `cjson`, with the leniency, the limits and the words of lua-cjson 2.1.

local cjson, tools = ...
local byte, char, concat, error, find = tools.byte, tools.char, tools.concat, tools.error, tools.find
local floor, format, gsub, huge, next = tools.floor, tools.format, tools.gsub, tools.huge, tools.next
local rawget, rep, select, sub = tools.rawget, tools.rep, tools.select, tools.sub
local tonumber, tostring, type = tools.tonumber, tools.tostring, tools.type
local real_of = tools.real_of

-- A value of its own, as nothing in a table would be no element.
local NULL = tools.newproxy(false)

local ESCAPES = {['"'] = '\\"', ['\\'] = '\\\\', ['/'] = '\\/', ['\b'] = '\\b', ['\f'] = '\\f',
  ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t', ['\127'] = '\\u007f'}
for code = 0, 31 do
  local control = char(code)
  ESCAPES[control] = ESCAPES[control] or format('\\u%04x', code)
end
local UNESCAPES = {['"'] = '"', ['\\'] = '\\', ['/'] = '/', b = '\b', f = '\f', n = '\n', r = '\r',
  t = '\t'}
local INT32_MAX = 2147483647

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xc0 + floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return char(0xe0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
  end
  return char(0xf0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64,
    0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

local function fill(module)
  local sparse_convert, sparse_ratio, sparse_safe = false, 2, 10
  local encode_depth, decode_depth, precision = 1000, 1000, 14
  local keeps_buffer, encode_invalid, decode_invalid = true, false, true
  local number_format = '%.14g'

  -- --- encoding ---------------------------------------------------------------------------------

  local encode_value

  local function fail_encoding(kind, reason)
    error('Cannot serialise ' .. kind .. ': ' .. reason, 0)
  end

  local function encode_number(number)
    if number ~= number or number == huge or number == -huge then
      if encode_invalid == 'null' then return 'null' end
      if not encode_invalid then fail_encoding('number', 'must not be NaN or Inf') end
      if number ~= number then return 'nan' end
      return number > 0 and 'inf' or '-inf'
    end
    return format(number_format, number)
  end

  -- The largest key of an array; nil for what is an object.
  local function array_length(value)
    local largest, items = 0, 0
    for key in next, value do
      if type(key) ~= 'number' or key <= 0 or key ~= floor(key) then return nil end
      items = items + 1
      if key > largest then largest = key end
    end
    if sparse_ratio > 0 and largest > items * sparse_ratio and largest > sparse_safe then
      if not sparse_convert then fail_encoding('table', 'excessively sparse array') end
      return nil
    end
    return largest > 0 and largest or nil
  end

  local function encode_string(text)
    return '"' .. gsub(text, '[%c"\\/\127]', ESCAPES) .. '"'
  end

  local function encode_table(out, value, depth)
    if depth > encode_depth then
      error('Cannot serialise, excessive nesting (' .. depth .. ')', 0)
    end
    value = real_of[value] or value
    local length = array_length(value)
    if length then
      out[#out + 1] = '['
      for i = 1, length do
        if i > 1 then out[#out + 1] = ',' end
        encode_value(out, rawget(value, i), depth)
      end
      out[#out + 1] = ']'
      return
    end
    out[#out + 1] = '{'
    local is_first = true
    for key, item in next, value do
      if not is_first then out[#out + 1] = ',' end
      is_first = false
      if type(key) == 'number' then
        out[#out + 1] = '"' .. encode_number(key) .. '":'
      elseif type(key) == 'string' then
        out[#out + 1] = encode_string(key) .. ':'
      else
        fail_encoding(type(key), 'table key must be a number or string')
      end
      encode_value(out, item, depth)
    end
    out[#out + 1] = '}'
  end

  encode_value = function(out, value, depth)
    local kind = type(value)
    if kind == 'string' then
      out[#out + 1] = encode_string(value)
    elseif kind == 'number' then
      out[#out + 1] = encode_number(value)
    elseif kind == 'boolean' then
      out[#out + 1] = value and 'true' or 'false'
    elseif kind == 'table' then
      encode_table(out, value, depth + 1)
    elseif kind == 'nil' or value == NULL then
      out[#out + 1] = 'null'
    else
      fail_encoding(kind, 'type not supported')
    end
  end

  function module.encode(...)
    if select('#', ...) ~= 1 then
      error("bad argument #1 to 'encode' (expected 1 argument)", 2)
    end
    local out = {}
    local ok, failure = tools.pcall(encode_value, out, (...), 0)
    if not ok then error(failure, type(failure) == 'string' and 2 or 0) end
    return concat(out)
  end

  -- --- decoding ---------------------------------------------------------------------------------

  local NAMES = {['{'] = 'T_OBJ_BEGIN', ['}'] = 'T_OBJ_END', ['['] = 'T_ARR_BEGIN',
    [']'] = 'T_ARR_END', [':'] = 'T_COLON', [','] = 'T_COMMA'}

  local function number_at(text, at)
    local _, stop = find(text, '^-?0[xX]%x+', at)
    if stop then
      if not decode_invalid then return nil end
      local digits = sub(text, at, stop)
      local negative = byte(digits) == 45
      local number = tonumber(negative and sub(digits, 2) or digits)
      return negative and -number or number, stop + 1
    end
    _, stop = find(text, '^-?%d+', at)
    if not stop then
      local lower = sub(text, at, at + 8):lower()
      for _, word in tools.ipairs({'infinity', 'inf', 'nan'}) do
        local _, last = find(lower, '^[-+]?' .. word)
        if last and decode_invalid then
          local sign = byte(lower) == 45 and -1 or 1
          return word == 'nan' and -(0 / 0) or sign * huge, at + last
        end
      end
      _, stop = find(text, '^%+%d+', at)
      if not stop or not decode_invalid then return nil end
    end
    if not decode_invalid and find(text, '^-?0%d', at) then return nil end
    local _, after = find(text, '^%.%d*', stop + 1)
    stop = after or stop
    _, after = find(text, '^[eE][-+]?%d+', stop + 1)
    stop = after or stop
    return tonumber((gsub(sub(text, at, stop), '^%+', ''))), stop + 1
  end

  local function unicode_at(text, at)
    local digits = sub(text, at, at + 3)
    return find(digits, '^%x%x%x%x$') and tonumber(digits, 16) or nil
  end

  -- A string's text and what comes behind it; or nil, what is wrong, and where.
  local function string_at(text, at)
    local parts, from = nil, at + 1
    while true do
      local stop = find(text, '["\\]', from)
      if not stop then return nil, 'unexpected end of string', #text + 1 end
      if byte(text, stop) == 34 then
        local last = sub(text, from, stop - 1)
        if not parts then return last, stop + 1 end
        parts[#parts + 1] = last
        return concat(parts), stop + 1
      end
      parts = parts or {}
      parts[#parts + 1] = sub(text, from, stop - 1)
      local letter = sub(text, stop + 1, stop + 1)
      if letter == 'u' then
        local code = unicode_at(text, stop + 2)
        from = stop + 6
        if code and code >= 0xd800 and code < 0xe000 then
          local low = code < 0xdc00 and sub(text, from, from + 1) == '\\u' and unicode_at(text, from + 2)
          if low and low >= 0xdc00 and low < 0xe000 then
            code = (code - 0xd800) * 1024 + low - 0xdc00 + 0x10000
            from = from + 6
          else
            code = nil
          end
        end
        if not code then return nil, 'invalid unicode escape code', stop end
        parts[#parts + 1] = utf8(code)
      else
        local plain = UNESCAPES[letter]
        if not plain then return nil, 'invalid escape code', stop end
        parts[#parts + 1] = plain
        from = stop + 2
      end
    end
  end

  -- The next token: its kind, its value, and what comes behind it; and where it begins.
  local function token_at(text, at)
    at = find(text, '[^ \t\r\n]', at) or #text + 1
    if at > #text then return 'T_END', nil, at, at end
    local first = sub(text, at, at)
    local name = NAMES[first]
    if name then return name, nil, at + 1, at end
    if first == '"' then
      local value, after, place = string_at(text, at)
      if not value then return 'T_ERROR', after, nil, place end
      return 'T_STRING', value, after, at
    end
    if find(first, '[-0-9]') then
      local value, after = number_at(text, at)
      if not value then return 'T_ERROR', 'invalid number', nil, at end
      return 'T_NUMBER', value, after, at
    end
    if sub(text, at, at + 3) == 'true' then return 'T_BOOLEAN', true, at + 4, at end
    if sub(text, at, at + 4) == 'false' then return 'T_BOOLEAN', false, at + 5, at end
    if sub(text, at, at + 3) == 'null' then return 'T_NULL', NULL, at + 4, at end
    if decode_invalid and find(first, '[iInN+]') then
      local value, after = number_at(text, at)
      if value then return 'T_NUMBER', value, after, at end
    end
    return 'T_ERROR', 'invalid token', nil, at
  end

  local function fail_decoding(expected, kind, value, place)
    error('Expected ' .. expected .. ' but found ' .. (kind == 'T_ERROR' and value or kind) ..
      ' at character ' .. place, 0)
  end

  local decode_value

  local function descend(depth, at)
    depth = depth + 1
    if depth > decode_depth then
      error('Found too many nested data structures (' .. depth .. ') at character ' .. at - 1, 0)
    end
    return depth
  end

  local function decode_object(text, at, depth)
    depth = descend(depth, at)
    local object = {}
    local kind, value, after, place = token_at(text, at)
    if kind == 'T_OBJ_END' then return object, after end
    while true do
      if kind ~= 'T_STRING' then fail_decoding('object key string', kind, value, place) end
      local key = value
      kind, value, after, place = token_at(text, after)
      if kind ~= 'T_COLON' then fail_decoding('colon', kind, value, place) end
      kind, value, after, place = token_at(text, after)
      object[key], after = decode_value(text, kind, value, after, place, depth)
      kind, value, after, place = token_at(text, after)
      if kind == 'T_OBJ_END' then return object, after end
      if kind ~= 'T_COMMA' then fail_decoding('comma or object end', kind, value, place) end
      kind, value, after, place = token_at(text, after)
    end
  end

  local function decode_array(text, at, depth)
    depth = descend(depth, at)
    local array, count = {}, 0
    local kind, value, after, place = token_at(text, at)
    if kind == 'T_ARR_END' then return array, after end
    while true do
      count = count + 1
      array[count], after = decode_value(text, kind, value, after, place, depth)
      kind, value, after, place = token_at(text, after)
      if kind == 'T_ARR_END' then return array, after end
      if kind ~= 'T_COMMA' then fail_decoding('comma or array end', kind, value, place) end
      kind, value, after, place = token_at(text, after)
    end
  end

  decode_value = function(text, kind, value, after, place, depth)
    if kind == 'T_STRING' or kind == 'T_NUMBER' or kind == 'T_BOOLEAN' or kind == 'T_NULL' then
      return value, after
    end
    if kind == 'T_OBJ_BEGIN' then return decode_object(text, after, depth) end
    if kind == 'T_ARR_BEGIN' then return decode_array(text, after, depth) end
    fail_decoding('value', kind, value, place)
  end

  local function decode_all(text)
    local kind, value, after, place = token_at(text, 1)
    local decoded
    decoded, after = decode_value(text, kind, value, after, place, 0)
    kind, value, after, place = token_at(text, after)
    if kind ~= 'T_END' then fail_decoding('the end', kind, value, place) end
    return decoded
  end

  function module.decode(...)
    if select('#', ...) ~= 1 then
      error("bad argument #1 to 'decode' (expected 1 argument)", 2)
    end
    local text = ...
    if type(text) == 'number' then text = tostring(text) end
    if type(text) ~= 'string' then
      local kind = text == nil and 'no value' or type(text)
      error("bad argument #1 to 'decode' (string expected, got " .. (text == nil and 'nil' or kind) .. ')', 2)
    end
    if #text >= 2 and (byte(text, 1) == 0 or byte(text, 2) == 0) then
      error('JSON parser does not support UTF-16 or UTF-32', 2)
    end
    local ok, decoded = tools.pcall(decode_all, text)
    if not ok then error(decoded, type(decoded) == 'string' and 2 or 0) end
    return decoded
  end

  -- --- configuration ----------------------------------------------------------------------------

  local function integer(value, position, name, low, high, current)
    if value == nil then return current end
    local number = tonumber(value)
    if not number or number < low or number > high then
      error('bad argument #' .. position .. " to '" .. name .. "' (expected integer between " ..
        low .. ' and ' .. high .. ')', 3)
    end
    return floor(number)
  end

  local function choice(value, name, words, current)
    if value == nil then return current end
    if type(value) == 'boolean' then return value end
    if value == 'off' then return false end
    if value == 'on' then return true end
    if words and words[value] then return value end
    error("bad argument #1 to '" .. name .. "' (invalid option '" .. tostring(value) .. "')", 3)
  end

  function module.encode_sparse_array(convert, ratio, safe)
    sparse_convert = choice(convert, 'encode_sparse_array', nil, sparse_convert)
    sparse_ratio = integer(ratio, 2, 'encode_sparse_array', 0, INT32_MAX, sparse_ratio)
    sparse_safe = integer(safe, 3, 'encode_sparse_array', 0, INT32_MAX, sparse_safe)
    return sparse_convert, sparse_ratio, sparse_safe
  end
  -- Deeper ones would take more of Lua's stack than there is.
  local DEPTH_MAX = 5000
  function module.encode_max_depth(depth)
    encode_depth = integer(depth, 1, 'encode_max_depth', 1, INT32_MAX, encode_depth)
    local shown = encode_depth
    if encode_depth > DEPTH_MAX then encode_depth = DEPTH_MAX end
    return shown
  end
  function module.decode_max_depth(depth)
    decode_depth = integer(depth, 1, 'decode_max_depth', 1, INT32_MAX, decode_depth)
    local shown = decode_depth
    if decode_depth > DEPTH_MAX then decode_depth = DEPTH_MAX end
    return shown
  end
  function module.encode_number_precision(digits)
    precision = integer(digits, 1, 'encode_number_precision', 1, 14, precision)
    number_format = '%.' .. precision .. 'g'
    return precision
  end
  function module.encode_keep_buffer(keeps)
    keeps_buffer = choice(keeps, 'encode_keep_buffer', nil, keeps_buffer)
    return keeps_buffer
  end
  function module.encode_invalid_numbers(invalid)
    encode_invalid = choice(invalid, 'encode_invalid_numbers', {null = true}, encode_invalid)
    return encode_invalid
  end
  function module.decode_invalid_numbers(invalid)
    decode_invalid = choice(invalid, 'decode_invalid_numbers', nil, decode_invalid)
    return decode_invalid
  end

  module.null = NULL
  module._NAME, module._VERSION = 'cjson', '2.1.0'
end

fill(cjson)

function cjson.new()
  local made = {}
  fill(made)
  made.new = cjson.new
  return made
end
