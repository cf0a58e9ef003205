-- Numbers and strings as bytes and back: `struct`, by the formats of Roberto Ierusalimschy's library.

local struct, tools = ...
local byte, char, concat, error, floor = tools.byte, tools.char, tools.concat, tools.error, tools.floor
local frexp, huge, ldexp, select, sub = tools.frexp, tools.huge, tools.ldexp, tools.select, tools.sub
local tonumber, tostring, type, unpack = tools.tonumber, tools.tostring, tools.type, tools.unpack

local SIZES = {b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, T = 8, f = 4, d = 8, x = 1}
local ALIGNMENT = 8
local BYTES_MAX = tools.host.reply_bytes_max

-- Walks through a format: gives option, size and whether bytes go from the lowest one up.
local function steps(format, name)
  local at, little, align = 1, true, 1
  local function number(default)
    local first = at
    while at <= #format and byte(format, at) >= 48 and byte(format, at) <= 57 do at = at + 1 end
    if at == first then return default end
    local value = tonumber(sub(format, first, at - 1))
    if value > 2147483647 then error('integral size overflow', 4) end
    return value
  end
  return function()
    while at <= #format do
      local option = sub(format, at, at)
      at = at + 1
      if option == '<' then
        little = true
      elseif option == '>' then
        little = false
      elseif option == '!' then
        local wanted = number(ALIGNMENT)
        -- Only powers of two.
        local power = wanted
        while power > 1 and power % 2 == 0 do power = power / 2 end
        if power ~= 1 then error('alignment ' .. wanted .. ' is not a power of 2', 3) end
        align = wanted
      elseif option ~= ' ' then
        local size = SIZES[option]
        if option == 'i' or option == 'I' then
          size = number(4)
          if size > 32 then
            error('integral size ' .. size .. ' is larger than limit of 32', 3)
          end
        elseif option == 'c' then
          size = number(1)
        elseif option == 's' then
          size = 0
        elseif not size then
          error("bad argument #1 to '" .. name .. "' (invalid format option '" .. option .. "')", 3)
        end
        return option, size, little, align
      end
    end
  end
end

-- How many bytes stand before something of this size.
local function padding(size, align, option, total)
  if size == 0 or option == 'c' then return 0 end
  if size > align then size = align end
  if size > 1 then return (size - total % size) % size end
  return 0
end

local function number_argument(value, position, name)
  local number = tonumber(value)
  if not number or type(value) ~= 'number' and type(value) ~= 'string' then
    local kind = type(value)
    error("bad argument #" .. position .. " to '" .. name .. "' (number expected, got " .. kind .. ')', 3)
  end
  return number
end

local function put_integer(number, size, little)
  -- As C converts a double to 64 bits; more bytes repeat nothing.
  local whole = number < 0 and -floor(-number) or floor(number)
  if whole ~= whole or whole >= 2 ^ 64 or whole < -2 ^ 63 then whole = -2 ^ 63 end
  local negative = whole < 0
  local bytes = {}
  if negative then whole = -whole - 1 end
  for i = 1, size do
    local low = i <= 8 and whole % 256 or 0
    if i <= 8 then whole = (whole - low) / 256 end
    bytes[i] = (negative and i <= 8) and 255 - low or low
  end
  if not little then
    local turned = {}
    for i = 1, size do turned[i] = bytes[size + 1 - i] end
    bytes = turned
  end
  return char(unpack(bytes))
end

local function get_integer(data, at, size, little, is_signed)
  local number, top = 0, nil
  local used = size > 8 and 8 or size
  local negative = false
  for i = 1, used do
    -- From the highest byte down; of more than eight, the lowest eight.
    local place = little and at + used - i or at + size - used + i - 1
    local value = byte(data, place)
    if i == 1 then negative = is_signed and value >= 128 end
    number = number * 256 + (negative and 255 - value or value)
  end
  return negative and -number - 1 or number
end

-- IEEE numbers: exponents of so many bits, fractions of so many.
local function put_float(number, size, little)
  local exponent_bits, fraction_bits = 11, 52
  if size == 4 then exponent_bits, fraction_bits = 8, 23 end
  local bias = 2 ^ (exponent_bits - 1) - 1
  local sign = (number < 0 or 1 / number < 0) and 1 or 0
  if sign == 1 then number = -number end
  local exponent, fraction
  if number ~= number then
    exponent, fraction, sign = 2 * bias + 1, 2 ^ (fraction_bits - 1), 1
  elseif number == huge then
    exponent, fraction = 2 * bias + 1, 0
  elseif number == 0 then
    exponent, fraction = 0, 0
  else
    local mantissa, power = frexp(number)
    exponent = power - 1 + bias
    local scaled
    if exponent > 0 then
      scaled = (mantissa * 2 - 1) * 2 ^ fraction_bits
    else
      scaled, exponent = ldexp(mantissa, power + bias - 1 + fraction_bits), 0
    end
    fraction = floor(scaled)
    local rest = scaled - fraction
    if rest > 0.5 or (rest == 0.5 and fraction % 2 == 1) then fraction = fraction + 1 end
    if fraction >= 2 ^ fraction_bits then fraction, exponent = fraction - 2 ^ fraction_bits, exponent + 1 end
    if exponent >= 2 * bias + 1 then exponent, fraction = 2 * bias + 1, 0 end
  end
  local bytes = {}
  -- All bits as one row of bytes, the lowest first.
  local high = sign * 2 ^ exponent_bits + exponent
  for i = 1, size do
    if fraction_bits >= 8 then
      bytes[i] = fraction % 256
      fraction = (fraction - bytes[i]) / 256
      fraction_bits = fraction_bits - 8
    else
      if fraction_bits > 0 then
        high = high * 2 ^ fraction_bits + fraction
        fraction_bits = 0
      end
      bytes[i] = high % 256
      high = (high - bytes[i]) / 256
    end
  end
  if not little then
    local turned = {}
    for i = 1, size do turned[i] = bytes[size + 1 - i] end
    bytes = turned
  end
  return char(unpack(bytes))
end

local function get_float(data, at, size, little)
  local exponent_bits, fraction_bits = 11, 52
  if size == 4 then exponent_bits, fraction_bits = 8, 23 end
  local first = byte(data, little and at + size - 1 or at)
  local second = byte(data, little and at + size - 2 or at + 1)
  local sign = first >= 128 and -1 or 1
  local low_bits = exponent_bits - 7
  local exponent = first % 128 * 2 ^ low_bits + floor(second / 2 ^ (8 - low_bits))
  local fraction = second % 2 ^ (8 - low_bits)
  for i = 3, size do
    fraction = fraction * 256 + byte(data, little and at + size - i or at + i - 1)
  end
  local bias = 2 ^ (exponent_bits - 1) - 1
  if exponent == 2 * bias + 1 then
    return fraction == 0 and sign * huge or 0 / 0
  elseif exponent == 0 then
    return sign * ldexp(fraction, 1 - bias - fraction_bits)
  end
  return sign * ldexp(fraction + 2 ^ fraction_bits, exponent - bias - fraction_bits)
end

tools.put_float, tools.get_float = put_float, get_float
tools.put_integer, tools.get_integer = put_integer, get_integer

local function text_argument(value, position, name)
  if type(value) == 'number' then return tostring(value) end
  if type(value) ~= 'string' then
    local kind = value == nil and 'no value' or type(value)
    error("bad argument #" .. position .. " to '" .. name .. "' (string expected, got " .. kind .. ')', 3)
  end
  return value
end

function struct.pack(format, ...)
  format = text_argument(format, 1, 'pack')
  local pieces, total, argument = {}, 0, 1
  for option, size, little, align in steps(format, 'pack') do
    local fill = padding(size, align, option, total)
    local piece
    if option == 'x' then
      piece = '\0'
    elseif option == 's' or option == 'c' then
      local text = text_argument((select(argument, ...)), argument + 1, 'pack')
      argument = argument + 1
      if size == 0 then size = #text end
      if #text < size then
        error("bad argument #" .. argument + 1 .. " to 'pack' (string too short)", 2)
      end
      piece = option == 's' and text .. '\0' or sub(text, 1, size)
    else
      local number = number_argument((select(argument, ...)), argument + 1, 'pack')
      argument = argument + 1
      if option == 'f' or option == 'd' then
        piece = put_float(number, size, little)
      else
        piece = put_integer(number, size, little)
      end
    end
    if fill > 0 then piece = ('\0'):rep(fill) .. piece end
    pieces[#pieces + 1] = piece
    total = total + #piece
    if total > BYTES_MAX then error('result too long', 2) end
  end
  return concat(pieces)
end

function struct.unpack(format, data, place)
  format, data = text_argument(format, 1, 'unpack'), text_argument(data, 2, 'unpack')
  local at = place == nil and 1 or floor(number_argument(place, 3, 'unpack'))
  if at < 1 then error("bad argument #3 to 'unpack' (offset must be 1 or greater)", 2) end
  at = at - 1
  local values, count = {}, 0
  for option, size, little, align in steps(format, 'unpack') do
    at = at + padding(size, align, option, at)
    if at + size > #data then error("bad argument #2 to 'unpack' (data string too short)", 2) end
    if count >= 7000 then error('too many results to unpack', 2) end
    local value
    if option == 'c' then
      if size == 0 then
        if count == 0 or type(values[count]) ~= 'number' then
          error("format 'c0' needs a previous size", 2)
        end
        size = values[count]
        count = count - 1
        if size < 0 or at + size > #data then
          error("bad argument #2 to 'unpack' (data string too short)", 2)
        end
      end
      value = sub(data, at + 1, at + size)
    elseif option == 's' then
      local stop = at + 1
      while stop <= #data and byte(data, stop) ~= 0 do stop = stop + 1 end
      if stop > #data then error('unfinished string in data', 2) end
      value = sub(data, at + 1, stop - 1)
      size = stop - at
    elseif option == 'f' or option == 'd' then
      value = get_float(data, at + 1, size, little)
    elseif option ~= 'x' then
      local is_signed = option == 'b' or option == 'h' or option == 'l' or option == 'i'
      value = get_integer(data, at + 1, size, little, is_signed)
    end
    if option ~= 'x' then
      count = count + 1
      values[count] = value
    end
    at = at + size
  end
  values[count + 1] = at + 1
  return unpack(values, 1, count + 1)
end

function struct.size(format)
  format = text_argument(format, 1, 'size')
  local total = 0
  for option, size, _, align in steps(format, 'size') do
    if option == 's' then
      error("bad argument #1 to 'size' (option 's' has no fixed size)", 2)
    elseif option == 'c' and size == 0 then
      error("bad argument #1 to 'size' (option 'c0' has no fixed size)", 2)
    end
    total = total + padding(size, align, option, total) + size
  end
  return total
end
