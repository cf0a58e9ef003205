-- `redis.register_function`, for libraries that are being loaded.

local concat, error, ipairs, next, select = table.concat, error, ipairs, next, select
local tostring, type = tostring, type

return function(fail, check_room, register_at_host)

-- What a library's own code may call, while it is loaded.
local loading
local function text_of(value)
  return type(value) == 'string' and value or type(value) == 'number' and tostring(value) or nil
end
local function register(...)
  if not loading then
    fail('redis.register_function can only be called on FUNCTION LOAD command')
  end
  local count = select('#', ...)
  if count < 1 or count > 2 then fail('wrong number of arguments to redis.register_function') end
  local name, body, description, flags = ...
  if count == 1 then
    local given = ...
    if type(given) ~= 'table' then
      fail('calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).')
    end
    name, body = nil, nil
    for key, value in next, given do
      if not text_of(key) then
        fail('named argument key given to redis.register_function is not a string')
      end
      if key == 'function_name' then
        name = text_of(value)
        if not name then
          fail('function_name argument given to redis.register_function must be a string')
        end
      elseif key == 'description' then
        description = text_of(value)
        if not description then
          fail('description argument given to redis.register_function must be a string')
        end
      elseif key == 'callback' then
        if type(value) ~= 'function' then
          fail('callback argument given to redis.register_function must be a function')
        end
        body = value
      elseif key == 'flags' then
        if type(value) ~= 'table' then
          fail('flags argument to redis.register_function must be a table representing function flags')
        end
        flags = value
      else
        fail('unknown argument given to redis.register_function')
      end
    end
    if name == nil then fail('redis.register_function must get a function name argument') end
    if body == nil then fail('redis.register_function must get a callback argument') end
  else
    description, flags = nil, nil
    name = text_of(name)
    if not name then
      fail('first argument to redis.register_function must be a string')
    end
    if type(body) ~= 'function' then
      fail('second argument to redis.register_function must be a function')
    end
  end
  local words = {}
  for _, flag in ipairs(flags or {}) do
    if type(flag) ~= 'string' then fail('unknown flag given') end
    words[#words + 1] = flag
  end
  check_room()
  local failure = register_at_host(name, body, description, concat(words, ' '))
  if failure then error({err = failure}, 0) end
end

return register, function(is_loading) loading = is_loading end
end
