"""MCP servers as `app.mcp.*` in scripts, and the pack itself as an MCP server. The protocol is the official SDK's.

Light, without the SDK: `config` (which servers there are), `trust` (which of a project's may start), `access` (what may
be done with them), `environment` (what they get to see), `naming`. With it: `hub` (the servers one run uses), below it
`connection`, `transports`, `schemas` and `results`; `script` (what a Lua script calls) and `serve` (the other way).
`guard` is a program of its own: every stdio server runs in its care, and ends with it.
"""
