"""What a script may do through the host: which functions, accounts, files and stores it reaches."""

from __future__ import annotations

import os

import pytest

from prefect_kosmokrator.integrations.confinement import Confinement
from prefect_kosmokrator.integrations.host import Host
from prefect_kosmokrator.integrations.lua import LuaError, run
from prefect_kosmokrator.integrations.permissions import Permissions

PROMPT = 'prompt = "a lamp"'


@pytest.fixture
def script(emulator, tmp_path):
    """Runs a script against the emulator with everything allowed, in a folder of its own."""

    def execute(source, **options):
        host = Host(Permissions(write="allow"), Confinement([tmp_path]), **options)
        done = run(source, host, name="workflow.lua")
        return done.result[0] if done.result else None, host

    return execute


def message(script, source, **options):
    with pytest.raises(LuaError) as caught:
        script(source, **options)
    return caught.value.message


@pytest.mark.parametrize(
    "path",
    [
        "stability.generate_core",
        "stability.generate_core_image",
        "stability.stability_generate_core",
        "stability.default.generate_core",
        "stability.work.generate_core_image",
        "stability.WORK.stability_generate_core",
    ],
)
def test_every_spelling_of_a_function_and_account_is_found(script, path):
    kind, host = script(f"return app.integrations.{path}({{ {PROMPT} }}).content_type")
    assert kind == "image/png"
    assert host.calls[0].function == "stability.generate_core"
    assert host.calls[0].account.lower() == ("work" if "work" in path.lower() else "default")


def test_a_result_goes_straight_into_the_next_call(script):
    source = f"""
    local image = app.integrations.stability.generate_core({{ {PROMPT} }})
    return app.integrations.stability.upscale_fast({{ image = image }}).width
    """
    assert script(source)[0] == 4096


def test_a_copy_of_a_result_and_its_raw_bytes_are_files_as_well(script):
    source = f"""
    local s = app.integrations.stability
    local image = s.generate_core({{ {PROMPT} }})
    local copy = {{ content_type = image.content_type, body_base64 = image.body_base64 }}
    return s.remove_background({{ image = copy }}).content_type
    """
    assert script(source)[0] == "image/png"


def test_positional_arguments_follow_the_order_of_the_parameters(script):
    source = 'return app.integrations.fal.submit_request("fal-ai/flux/dev", { prompt = "x" }).model_id'
    assert script(source)[0] == "fal-ai/flux/dev"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("app.integrations.stability.generate_cor{}", "Did you mean: generate_core"),
        ("app.integrations.stabilty.generate_core{}", "The providers below app.integrations are: stability, fal"),
        ("app.integrations.stability.generate_core{ promt = 'x' }", "Did you mean 'prompt'?"),
        ("app.integrations.stability.generate_core{}", "prompt is required"),
        ("app.integrations.stability.generate_core{ prompt = 3 }", "prompt: must be a valid string, got 3"),
        ("app.integrations.stability.nobody.get_balance{}", "There is no stability account 'nobody'"),
        ("app.integrations.stability.work.get_balance{ account = 'default' }", "the path says 'work'"),
        ("app.mcp.echo.echo{}", "no MCP servers are available"),
        ("docs.read()", "expected a page such as 'stability', got nothing"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(script, source, words):
    assert words in message(script, source)


def test_an_error_can_be_caught_and_told_apart(script):
    source = """
    local ok, e = pcall(app.integrations.stability.generate_core, { prompt = "moderate-me" })
    return { ok = ok, kind = e.kind, status = e.status, retryable = e.retryable, text = tostring(e) }
    """
    caught = script(source)[0]
    assert (caught["ok"], caught["kind"], caught["status"], caught["retryable"]) == (False, "Moderated", 403, False)
    assert "Nothing was charged" in caught["text"]


def test_an_uncaught_error_names_the_line_of_the_script(script):
    assert message(script, "\n\napp.integrations.stability.generate_core({})").startswith("workflow.lua:3: ")


def test_permissions_are_asked_before_anything_is_sent(script, emulator, tmp_path):
    host = Host(Permissions(), Confinement([tmp_path]))
    with pytest.raises(LuaError, match=r"write requires approval\. Use --force"):
        run(f"app.integrations.stability.generate_core({{ {PROMPT} }})", host)
    assert not list(emulator.state.ledger)


def test_force_lifts_ask_but_not_deny(script, emulator, monkeypatch, tmp_path):
    host = Host(Permissions(force=True), Confinement([tmp_path]))
    run(f"app.integrations.stability.generate_core({{ {PROMPT} }})", host)
    assert host.forced
    monkeypatch.setenv("KOSMO_PERMISSIONS__STABILITY__WRITE", "deny")
    with pytest.raises(LuaError, match="access denied"):
        run(f"app.integrations.stability.generate_core({{ {PROMPT} }})", host)


def test_a_run_may_be_limited_to_some_accounts(script):
    assert script("return app.integrations.stability.work.get_balance{}", account_names=["work"])[0]["credits"]
    words = message(script, "app.integrations.stability.get_balance{}", account_names=["work"])
    assert "may not use the stability account 'default'; it may use: work" in words


def test_files_inside_the_folder_are_read(script, tmp_path, picture_file):
    for size, name in enumerate(("lamp.png", str(tmp_path / "lamp.png"), (tmp_path / "lamp.png").as_uri()), 100):
        picture_file("lamp.png", (size, size))
        assert script(f"return app.integrations.stability.remove_background{{ image = {name!r} }}.width")[0] == size


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/proc/self/environ", "outside the folders a script may read"),
        ("../secret.png", "outside the folders"),
        ("link.png", "outside the folders"),
        (".env", "is hidden"),
        ("sub/.git/config", "is hidden"),
        ("sub", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("nothing.png", "does not exist"),
        ("a\\0b", "does not exist"),
        ("https://internal.example/x.png", "only name addresses that a function returned"),
        ("s3://other/secret.png", "only name addresses that a function returned"),
        ("file:///etc/passwd", "outside the folders"),
    ],
)
def test_files_outside_are_out_of_reach(script, tmp_path, name, words):
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    (tmp_path / "link.png").symlink_to("/etc/passwd")
    (tmp_path / ".env").write_text("KEY=1")
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "sub" / ".git" / "config").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for function in ("fal.upload_file{ file_path", "stability.erase{ image"):
        assert words in message(script, f'app.integrations.{function} = "{name}" }}')


def test_an_address_that_a_function_returned_may_be_used(script):
    source = """
    local fal = app.integrations.fal
    local job = fal.submit_request{ model_id = "fal-ai/flux/schnell", input = { prompt = "x" } }
    local result = fal.wait_for_request{ model_id = "fal-ai/flux/schnell", request_id = job.request_id }
    return app.integrations.stability.remove_background{ image = result.images[1].url }.content_type
    """
    assert script(source)[0] == "image/png"


@pytest.mark.parametrize("store", ["file:///tmp/elsewhere", "s3://other/folder", "file:///etc"])
def test_a_script_cannot_write_outside_its_reach(script, store):
    source = f'app.integrations.stability.generate_core{{ {PROMPT}, output = "{store}" }}'
    assert "output: a script may only store files" in message(script, source)


def test_results_go_to_the_stores_of_the_run(script, tmp_path):
    store = (tmp_path / "media").as_uri()
    uri, host = script(f"return app.integrations.stability.generate_core{{ {PROMPT} }}.uri", store=store)
    assert uri.startswith(store)
    assert [media.uri for media in host.media] == [uri]


def test_the_documented_fields_are_never_nil(script):
    source = """
    local fal = app.integrations.fal
    for _, model in ipairs(fal.list_models({})) do assert(#model.id > 0 and type(model.description) == "string") end
    for _, file in ipairs(fal.list_files({})) do assert(type(file.file_name) == "string" and file.url == "") end
    local user = fal.get_current_user({})
    return user.name .. "/" .. user.email
    """
    assert script(source)[0].endswith("/")
