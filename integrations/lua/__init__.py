"""Runs Lua scripts, each in a locked child process of its own.

>>> def host(path, arguments):
...     return {"path": list(path), "prompt": arguments["prompt"]}
>>> run('return app.integrations.fal.submit{ prompt = "a lamp" }.prompt', host).result
['a lamp']

A script sees Lua 5.4 without what reaches the system, and: `app.*`, `docs.list/search/read`, `lua_read_doc`, `mcp.*`
(all answered by the host), `json.encode/decode/null`, `regex.match/match_all/gsub`, `print`, `dump`, `sleep`, `inputs`,
and the Luau functions `unpack`, `typeof`, `string.split`, `table.find/create/clone/freeze/isfrozen`,
`math.clamp/sign/round` and `bit32`. environment.lua says what is left out and why.

What the host is asked
----------------------
`host(path, arguments)` with the path as names, never joined: `app.integrations.fal.list_models{}` asks for
`("integrations", "fal", "list_models")`, `docs.read("fal")` for `("docs", "read")`.

======================================= ====================================
the script wrote                        `arguments`
======================================= ====================================
`f()`, `f(nil)`, `f({})`                `{}`
`f{prompt = "x"}`                       a dict
`f({"a", "b"})`                         a list
`f("a", 2)`, `f({}, 1)`                 a `Positional` (a list of its own type)
`f(image)` with an untouched handle     a `Positional` holding the `Handle`
`x:f{...}`                              as `x.f{...}`
any `docs`, `mcp`, `lua_read_doc` call  a `Positional`, possibly empty
======================================= ====================================

How values cross
----------------
============================================== ======================================================================
from the script                                to the host and into `ScriptResult.result`
============================================== ======================================================================
string                                         str if it is valid UTF-8, otherwise bytes
integer; float without a fraction, below 1e21  int
other float                                    float
NaN, infinity                                  error
table with keys 1..n                           list; holes are None while n is at most twice the values plus 8
table with string keys                         dict, keys sorted
empty table                                    `{}` as the whole argument; inside it an `EmptyTable`; `[]` in results
empty table from json.decode or the host       `[]` or `{}`, as it was
json.null, nil in a list                       None
handle, unchanged                              the `Handle` itself; changed, a dict of all its fields
mixed or other keys, function, coroutine,      error that names the field (`at input.image`)
`app`, cycle, more than 64 levels, 500,000
values or 16 MiB
============================================== ======================================================================

============================================== ======================================================================
from the host, and `inputs`                    to the script
============================================== ======================================================================
None                                           nil; an absent key in a dict; `json.null` in a list
bool, float, str, bytes                        the same; half a surrogate pair becomes U+FFFD
int                                            integer; beyond 64 bits a string of its digits
list, tuple, other sequence; dict, mapping     table that remembers which it was
Handle                                         table; lazy fields are fetched when read
NaN, infinity, other types and keys, cycle,    error the script can catch (kind `value`; `memory` when larger than
more than 64 levels or 500,000 values          its memory)
============================================== ======================================================================

An exception of the host is caught with `pcall` as a table: `tostring(e)`, `"text " .. e` and `e:match(...)` see its
message; `e.kind` (its `kind` or class name), `e.retryable`, `e.status` and `e.request_id` come from its attributes.

Differences from KosmoKrator's engine that Lua 5.4 brings: `"n=" .. 10 / 2` and `string.format` say `5.0`; `+=`,
`continue`, backtick strings and type annotations are syntax errors; integers are exact to 64 bits.
"""

from prefect_kosmokrator.integrations.lua.errors import Kind, LuaError
from prefect_kosmokrator.integrations.lua.results import CallRecord, Limits, ScriptResult
from prefect_kosmokrator.integrations.lua.sandbox import run
from prefect_kosmokrator.integrations.lua.values import EmptyTable, Handle, Positional, materialise

__all__ = [
    "CallRecord",
    "EmptyTable",
    "Handle",
    "Kind",
    "Limits",
    "LuaError",
    "Positional",
    "ScriptResult",
    "materialise",
    "run",
]
