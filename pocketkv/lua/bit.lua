-- Bits of numbers: `bit`, as LuaJIT has it, over 32-bit numbers that are shown with a sign.

local bit, tools = ...
local floor, select, tostring, type, error, tonumber = tools.floor, tools.select, tools.tostring, tools.type, tools.error, tools.tonumber
local format = tools.format

local WORD = 4294967296

-- What two half bytes come to, for each operation: a look-up of 256 instead of 32 steps.
local function table_of(operation)
  local results = {}
  for a = 0, 15 do
    for b = 0, 15 do
      local result, weight, x, y = 0, 1, a, b
      for _ = 1, 4 do
        if operation(x % 2, y % 2) then result = result + weight end
        weight, x, y = weight * 2, floor(x / 2), floor(y / 2)
      end
      results[a * 16 + b] = result
    end
  end
  return results
end
local AND = table_of(function(x, y) return x + y == 2 end)
local OR = table_of(function(x, y) return x + y > 0 end)
local XOR = table_of(function(x, y) return x ~= y end)

-- An argument as a number from 0 to 2^32 - 1; rounded to the nearest, ties to the even one.
local function word(value, position, name)
  local number = tonumber(value)
  if type(value) ~= 'number' and type(value) ~= 'string' or not number then
    local kind = value == nil and 'no value' or type(value)
    error("bad argument #" .. position .. " to '" .. name .. "' (number expected, got " .. kind .. ')', 3)
  end
  local whole = floor(number)
  local rest = number - whole
  if rest > 0.5 or (rest == 0.5 and whole % 2 == 1) then whole = whole + 1 end
  whole = whole % WORD
  -- What is no number (nan, inf) has no bits.
  return whole == whole and whole or 0
end

local function signed(number)
  return number >= 2147483648 and number - WORD or number
end

local function combined(results, a, b)
  local result, weight = 0, 1
  for _ = 1, 8 do
    local x, y = a % 16, b % 16
    result = result + results[x * 16 + y] * weight
    a, b, weight = (a - x) / 16, (b - y) / 16, weight * 16
  end
  return result
end

local function folded(name, results)
  bit[name] = function(...)
    local result = word((...), 1, name)
    for i = 2, select('#', ...) do
      result = combined(results, result, word((select(i, ...)), i, name))
    end
    return signed(result)
  end
end
folded('band', AND)
folded('bor', OR)
folded('bxor', XOR)

function bit.tobit(value) return signed(word(value, 1, 'tobit')) end

function bit.bnot(value) return signed(WORD - 1 - word(value, 1, 'bnot')) end

function bit.bswap(value)
  local number, swapped = word(value, 1, 'bswap'), 0
  for _ = 1, 4 do
    local byte = number % 256
    swapped = swapped * 256 + byte
    number = (number - byte) / 256
  end
  return signed(swapped)
end

local function shifting(name, shift)
  bit[name] = function(value, count)
    return signed(shift(word(value, 1, name), word(count, 2, name) % 32))
  end
end
shifting('lshift', function(number, count) return number * 2 ^ count % WORD end)
shifting('rshift', function(number, count) return floor(number / 2 ^ count) end)
shifting('arshift', function(number, count) return floor(signed(number) / 2 ^ count) % WORD end)
local function rotated(number, count)
  local high = floor(number / 2 ^ (32 - count))
  return number * 2 ^ count % WORD + high
end
shifting('rol', rotated)
shifting('ror', function(number, count) return rotated(number, (32 - count) % 32) end)

function bit.tohex(value, digits)
  local number = word(value, 1, 'tohex')
  digits = digits == nil and 8 or signed(word(digits, 2, 'tohex'))
  local upper = digits < 0
  if upper then digits = digits == -2147483648 and 8 or -digits end
  if digits > 8 then digits = 8 end
  if digits == 0 then return '' end
  local text = format(upper and '%08X' or '%08x', number)
  return tools.sub(text, -digits)
end
