"""An MCP server that can misbehave.

Its arguments: how (`well` for not at all), a folder for traces, and `http` to listen on a port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path

MODE, TRACES = sys.argv[1], Path(sys.argv[2])
(TRACES / f"started-{os.getpid()}").touch()
if MODE == "hang":  # before the slow imports
    time.sleep(600)
if MODE == "crash":
    sys.exit("ImportError: no module named weather")

from mcp.server import MCPServer  # noqa: E402
from mcp_types import (  # noqa: E402
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    TextContent,
    ToolAnnotations,
)

READS = ToolAnnotations(read_only_hint=True)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
server = MCPServer("faults")


def text(value):
    return CallToolResult(content=[TextContent(text=value)])


@server.tool(annotations=READS)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=READS, structured_output=False)
def said(value: str) -> CallToolResult:
    """Return one text item."""
    return text(value)


@server.tool(annotations=READS, structured_output=False)
def shapes(items: list[str], options: dict[str, int], nested: list[dict[str, list[int]]] | None = None) -> str:
    """Tell what arrived."""
    return f"{items!r} {options!r} {nested!r}"


@server.tool(structured_output=False)
def note(words: str) -> str:
    """Write something down."""
    with (TRACES / "notes").open("a") as file:
        file.write(f"{words}\n")
    return f"noted {words}"


@server.tool(structured_output=False)
def draw(words: str) -> CallToolResult:
    """Return a picture."""
    with (TRACES / "notes").open("a") as file:
        file.write(f"{words}\n")
    return CallToolResult(content=[ImageContent(data=b64encode(PNG).decode(), mime_type="image/png")])


@server.tool(annotations=READS, structured_output=False)
def everything() -> CallToolResult:
    """Return all kinds of content."""
    data = b64encode(PNG).decode()
    return CallToolResult(
        content=[
            TextContent(text="here"),
            ImageContent(data=data, mime_type="image/png"),
            AudioContent(data=b64encode(b"RIFF").decode(), mime_type="audio/wav"),
            EmbeddedResource(resource=BlobResourceContents(uri="x://v", mime_type="video/mp4", blob=data)),
        ]
    )


@server.tool(annotations=READS, structured_output=False)
def structured() -> CallToolResult:
    """Return structured content and a picture."""
    return CallToolResult(
        content=[TextContent(text="ignored"), ImageContent(data=b64encode(PNG).decode(), mime_type="image/png")],
        structured_content={"answer": 42, "empty": []},
    )


@server.tool(annotations=READS, structured_output=False)
def nothing() -> CallToolResult:
    """Return no content."""
    return CallToolResult(content=[])


@server.tool(structured_output=False)
def fail(why: str) -> CallToolResult:
    """Report an error."""
    return CallToolResult(content=[TextContent(text=f"no: {why}")], is_error=True)


@server.tool(annotations=READS, structured_output=False)
def environment() -> str:
    """Tell the own variables."""
    return "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()))


@server.tool(structured_output=False)
def die(words: str = "") -> str:
    """End in the middle of the call."""
    (TRACES / "died").write_text(words)
    sys.stderr.write(f"Traceback: it hurts, token {os.environ.get('API_TOKEN', '')}\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool(annotations=READS, structured_output=False)
def sleep(seconds: float) -> str:
    """Answer late."""
    time.sleep(seconds)
    return "awake"


@server.tool(annotations=READS, structured_output=False)
def large(size: int) -> str:
    """Return a long text."""
    return "x" * size


@server.resource("notes://today", mime_type="text/plain")
def today() -> str:
    """What is up today."""
    return "rain"


@server.prompt()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


def flood(descriptor):
    while True:
        # Small enough to be written in one piece: a message torn apart by its own server is lost.
        os.write(descriptor, b"DEBUG this is no message at all\n" * 100)
        os.write(descriptor, b"\xff\xfe no text either\n")
        time.sleep(0.001)


def main():
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MODE in {"family", "stubborn"}:
        command = [sys.executable, "-c", "import time; time.sleep(600)", str(TRACES)]
        subprocess.Popen(command, start_new_session=True)
    if MODE == "flood":
        threading.Thread(target=flood, args=(os.dup(1),), daemon=True).start()
    if MODE == "collide":
        for name in ("get-time", "get_time", "Get.Time", "other", "end", "3d"):
            server.add_tool(lambda name=name: f"this is {name}", name=name, annotations=READS, structured_output=False)
    if "http" in sys.argv[3:]:
        import uvicorn

        listener = socket.create_server(("127.0.0.1", 0))
        (TRACES / "port").write_text(str(listener.getsockname()[1]))
        app = server.streamable_http_app(json_response="json" in sys.argv[3:])
        uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none")).run([listener])
    else:
        server.run()
    if MODE == "stubborn":
        time.sleep(600)


if __name__ == "__main__":
    main()
