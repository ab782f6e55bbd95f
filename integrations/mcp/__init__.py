"""MCP servers as app.mcp.*; not part of this release."""
