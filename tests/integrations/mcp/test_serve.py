"""What `mcp:serve` offers, refuses and returns; asked by the SDK's client in the same process."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import anyio
import pytest
from mcp import Client, MCPError
from PIL import Image

from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.errors import InvalidInput
from prefect_kosmokrator.integrations.mcp.serve import MAX_CONTENT_BYTES, MAX_TEXT, Gateway, _content, _result
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.permissions import Permissions
from prefect_kosmokrator.integrations.providers import PROVIDERS


@pytest.fixture
def ask(emulator, monkeypatch, tmp_path):
    """Asks a gateway one thing: `ask("call_tool", name, arguments)`, with options of the gateway by name."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)

    def one(method, *args, permissions=None, **options):
        gateway = Gateway(
            permissions or Permissions(),
            Confinement([Path.cwd()], (tmp_path / "out").as_uri()),
            store=(tmp_path / "out").as_uri(),
            **options,
        )

        async def run():
            async with Client(gateway.server) as client:
                try:
                    return await getattr(client, method)(*args)
                except MCPError as error:
                    return error

        answer = anyio.run(run)
        if isinstance(answer, MCPError):
            raise answer
        return answer

    return one


def names(listed):
    return {tool.name for tool in listed.tools}


def test_only_functions_that_read_are_offered_by_default(ask):
    offered = names(ask("list_tools"))
    for provider in PROVIDERS.values():
        for function in provider.functions.values():
            name = f"integration__{provider.name}__{function.name}"
            assert (name in offered) == (function.operation == "read"), name


def test_a_hidden_function_cannot_be_called_either(ask, emulator):
    answer = ask("call_tool", "integration__stability__generate_core", {"prompt": "x"})
    assert answer.is_error
    assert "was started without --write allow" in answer.content[0].text
    assert answer.structured_content["error"]["kind"] == "ConfigurationError"


def test_integrations_are_chosen_with_their_pages(ask):
    offered = names(ask("list_tools", integrations=["fal"], write="allow"))
    assert offered
    assert all(name.startswith("integration__fal__") for name in offered)
    pages = {resource.uri for resource in ask("list_resources", integrations=["fal"]).resources}
    assert "kosmo://docs/fal.submit_request" in pages
    assert all(uri.startswith("kosmo://docs/fal") for uri in pages)
    with pytest.raises(MCPError, match="Unknown resource"):
        ask("read_resource", "kosmo://docs/stability", integrations=["fal"])
    with pytest.raises(InvalidInput, match=r"There is no integration .nope.\. There are: stability, fal\."):
        Gateway(Permissions(), Confinement([]), integrations=["nope"])


def test_every_page_can_be_read(ask):
    for resource in ask("list_resources").resources:
        (page,) = ask("read_resource", resource.uri).contents
        assert page.mime_type == "text/markdown"
        assert page.text.startswith("#")


def test_the_schemas_are_the_catalogues(ask):
    for tool in ask("list_tools", write="allow").tools:
        _, provider, function = tool.name.split("__")
        known = PROVIDERS[provider].functions[function]
        assert tool.input_schema == known.schema
        assert known.description in tool.description
        assert tool.annotations.read_only_hint == (known.operation == "read")
        assert tool.annotations.destructive_hint != tool.annotations.read_only_hint


@pytest.mark.parametrize("value", ["deny", "ask", "allow"])
@pytest.mark.parametrize("operation", ["READ", "WRITE"])
def test_write_allow_answers_ask_and_never_deny(ask, monkeypatch, operation, value):
    monkeypatch.setenv(f"KOSMO_PERMISSIONS__STABILITY__{operation}", value)
    name, arguments = (
        ("integration__stability__get_balance", {})
        if operation == "READ"
        else ("integration__stability__generate_core", {"prompt": "a lamp"})
    )
    permitted = value == "allow" or (value == "ask" and operation == "WRITE")
    assert (name in names(ask("list_tools", write="allow"))) == permitted
    answer = ask("call_tool", name, arguments, write="allow")
    assert answer.is_error is not permitted
    if not permitted:
        assert f"KOSMO_PERMISSIONS__STABILITY__{operation}" in answer.content[0].text
        assert ask("call_tool", name, arguments).is_error


def test_a_result_that_is_no_object_is_wrapped(ask):
    answer = ask("call_tool", "integration__fal__list_models", {"limit": 2})
    assert isinstance(answer.structured_content, dict)
    assert json.loads(answer.content[0].text)


def test_files_of_the_working_folder_are_within_reach_and_others_are_not(ask, picture, tmp_path):
    project = tmp_path / "project"
    (project / "lamp.png").write_bytes(picture(512, 512))
    (project / ".secret.png").write_bytes(picture(512, 512))
    call = "integration__stability__remove_background"
    assert not ask("call_tool", call, {"image": "lamp.png"}, write="allow").is_error
    for path in ("/etc/hosts", "../home/x.png", ".secret.png", "https://example.com/a.png"):
        answer = ask("call_tool", call, {"image": path}, write="allow")
        assert answer.structured_content["error"]["kind"] == "InvalidInput", path
        assert answer.structured_content["error"]["parameter"] == "image"


def test_wrong_arguments_name_the_parameter(ask):
    answer = ask("call_tool", "integration__stability__generate_core", {"promt": "x"}, write="allow")
    assert "there is no parameter 'promt'. Did you mean 'prompt'?" in answer.content[0].text
    with pytest.raises(MCPError, match="Unknown tool: integration__nope__x"):
        ask("call_tool", "integration__nope__x", {})


def test_an_unknown_account_is_an_error_without_a_key(ask):
    answer = ask("call_tool", "integration__stability__get_balance", {"account": "nobody"})
    assert "There is no stability account 'nobody'. Known accounts: default" in answer.content[0].text


def test_a_large_picture_is_shown_small_and_stored_whole(noise, tmp_path):
    content = noise(1200, 1200)
    assert len(content) > MAX_CONTENT_BYTES
    media = Media.from_bytes(content, "image/png").save((tmp_path / "out").as_uri(), "big")
    (block,) = _content(media)
    shown = base64.b64decode(block.data)
    assert len(shown) <= MAX_CONTENT_BYTES
    with Image.open(BytesIO(shown)) as image:
        assert max(image.size) < 1200
    assert block.mime_type == "image/webp"


def test_sound_is_played_video_is_not_and_nothing_fails_for_a_look(tmp_path):
    assert _content(Media.from_bytes(b"RIFF", "audio/wav"))[0].type == "audio"
    assert _content(Media.from_bytes(b"x" * (MAX_CONTENT_BYTES + 1), "audio/wav")) == []
    assert _content(Media.from_bytes(b"x", "video/mp4")) == []
    assert _content(Media("image/png", uri=(tmp_path / "gone.png").as_uri())) == []
    assert _content(Media("image/png", uri="https://v3.fal.media/x.png")) == []


def test_a_long_result_is_cut_and_stays_valid():
    answer = _result({"models": ["ü" * 1000] * 500}, [])
    assert len(answer.content[0].text) < MAX_TEXT + 200
    assert answer.structured_content["truncated"] is True
