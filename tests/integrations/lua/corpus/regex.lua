--## captures are 1-based, the whole match first
--= ok ["hello 42", "hello", "42", "hello"]
local m = regex.match("say hello 42!", "(?<word>\\w+) (\\d+)")
return m[1], m[2], m[3], m.word
--## no match is nil
--= ok [null]
return regex.match("abc", "\\d")
--## delimited with modifiers
--= ok ["FOO", "a\nb", "x", "ab", "b"]
return regex.match("a FOO", "/foo/i")[1], regex.match("a\nb", "#a.b#s")[1], regex.match("x", "~ x ~x")[1], regex.match("ab", "%ab%")[1], regex.match("a\nb", "/^b$/m")[1]
--## bare patterns that look delimited
--= ok ["/foo/bar", "(", "[x]"]
return regex.match("/foo/bar", "/foo/bar")[1], regex.match("(", "\\(")[1], regex.match("[x]", "\\[x\\]")[1]
--## a bare group is a group
--= ok ["7"]
return regex.match("n7", "(\\d+)")[2]
--## groups that took no part
--= ok [1, 3, "", "b"]
local a = regex.match("a", "a(x)?")
local b = regex.match("b", "(a)?(b)")
return #a, #b, b[2], b[3]
--## unmatched as null
--= ok [true, 2]
local m = regex.match("a", "a(x)?", 512)
return m[2] == json.null, #m
--## offsets
--= ok [["b", 1], ["", -1]]
local m = regex.match("ab", "b", 256)
local n = regex.match("b", "(a)?(b)", 256)
return m[1], n[2]
--## match_all by group
--= ok [[["a1", "b2"], ["a", "b"], ["1", "2"]]]
return regex.match_all("a1 b2", "([a-z])(\\d)")
--## match_all by match
--= ok [[["a1", "a"], ["b2", "b"]]]
return regex.match_all("a1 b2", "([a-z])\\d", 2)
--## match_all without a match
--= ok [[]]
return regex.match_all("abc", "\\d")
--## match_all with names
--= ok ["1", "2"]
local m = regex.match_all("1 2", "(?P<n>\\d)")
return m.n[1], m.n[2]
--## match_all with empty matches
--= ok [4]
return #regex.match_all("abc", "x*")[1]
--## unknown flags
--= runtime 1 unknown flags
regex.match_all("a", "a", 4096)
--## gsub
--= ok ["a-b-c", "b a", "b0", "<x>", "$ \\", "x.b", "aXX", "abc"]
return regex.gsub("a  b c", "\\s+", "-"), regex.gsub("a b", "(\\w) (\\w)", "$2 \\1"), regex.gsub("b", "(b)", "${1}0"), regex.gsub("x", "x", "<$0>"), regex.gsub("a", "a", "$ \\"), regex.gsub("a.b", "a", "x", 1), regex.gsub("aaa", "(?<=a)a", "X"), regex.gsub("abc", "c", "", 0)
--## gsub limit and empty matches
--= ok ["bba", "-a-b-"]
return regex.gsub("aaa", "a", "b", 2), regex.gsub("ab", "", "-")
--## groups that do not exist are empty
--= ok ["[]"]
return regex.gsub("a", "a", "[$7]")
--## characters, not bytes, when both sides are text
--= ok ["é", "-à", 2]
return regex.match("é", ".")[1], regex.gsub("éà", "é", "-"), #regex.match_all("éà", ".")[1]
--## bytes when one side is not
--= ok [3]
return #regex.match_all("\xff\xfe\xfd", ".")[1]
--## binary subject, text pattern
--= ok [true]
return regex.match("\xffPNG\0", "PNG") ~= nil
--## possessive, atomic, lookbehind, recursion
--= ok ["aab", "((x))"]
return regex.match("aab", "a++b")[1], regex.match("f((x))", "\\((?:[^()]|(?R))*\\)")[1]
--## an invalid pattern is an error that names it
--= runtime 1 invalid pattern
regex.match("a", "(")
--## an error that can be caught
--= ok [false, true]
local ok, problem = pcall(regex.gsub, "a", "[z-a]", "")
return ok, problem:find("[z-a]", 1, true) ~= nil
--## wrong types
--= ok ["regex.match: expected string subject, got table", "regex.match_all: expected string pattern, got nil", "regex.gsub: expected string replacement, got nil"]
return select(2, pcall(regex.match, {}, "a")), select(2, pcall(regex.match_all, "a")), (select(2, pcall(regex.gsub, "a", "b")))
--## unsupported modifiers say so
--= runtime 1 modifier U is not supported
regex.match("a", "/a/U")
--## anchored modifier
--= ok [null, "b"]
return regex.match("ab", "/b/A"), regex.match("ba", "/b/A")[1]
--## many patterns
--= ok [300]
local n = 0
for i = 1, 300 do if regex.match("x" .. i, "^x" .. i .. "$") then n = n + 1 end end
return n
--## a long subject
--= ok [100000]
return #regex.match_all(("ab"):rep(100000), "b")[1]
--## a long subject that is not ASCII
--= ok [50000]
return #regex.match_all(("éb"):rep(50000), "b")[1]
--## too many groups
--= runtime 1 more than 99 groups
regex.match("a", ("(a)?"):rep(100))
--## backtracking without end
--! cpu_seconds=5
--= ok [false, true]
local ok, problem = pcall(regex.match, ("a"):rep(60) .. "!", "(a|aa)+$")
return ok, tostring(problem):find("too long", 1, true) ~= nil
--## backtracking beyond the CPU limit
--! cpu_seconds=0.3
--= cpu 2
while true do
  pcall(regex.match, ("a"):rep(60) .. "!", "(a|aa)+$")
end
--## a pattern that compiles to something huge
--! cpu_seconds=1
--= any
regex.match("a", "((((a{1000}){1000}){1000}){1000})")
--## deeply nested pattern
--= any
regex.match("a", ("("):rep(50000) .. "a" .. (")"):rep(50000))
--## a pattern of a megabyte
--! cpu_seconds=2
--= any
regex.match("a", ("a"):rep(1000000))
--## globals gone
--= ok ["x"]
string, table, pcall, select = nil
return regex.match("ax", "x")[1]
--## the engine is loaded when the text of the script names it
--! source=72657475726e20287063616c6c285f475b22726567222e2e226578225d2e6d617463682c202261222c202261222929
--= ok [false]
--## regex found by a computed name
--= ok [true]
return type(_G["reg" .. "ex"].match) == "function"
--## what only PCRE writes this way
--= ok ["a{e<=1}", "a", "a", "a.b", "x{}y", "{a}", "A"]
return regex.match("a{e<=1}", "a{e<=1}")[1], regex.match("aa", "/(a)\\g{1}/")[2], regex.match("aa", "(?<x>a)\\k<x>").x, regex.match("a.b", "\\Qa.b\\E")[1], regex.match("x{}y", "x{}y")[1], regex.match("{a}", "[{]a[}]")[1], regex.match("A", "\\x{41}")[1]
--## an escaped dollar sign in a replacement is plain
--= ok ["$1", "bab"]
return regex.gsub("a", "a", "\\$1"), regex.gsub("ab", "(a)(b)", "$2${1}\\2")
