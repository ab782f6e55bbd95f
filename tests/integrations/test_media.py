"""Media: bytes or a reference, what is stored beside them, and what happens when storing fails."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_kosmokrator.integrations import fal, output, stability
from prefect_kosmokrator.integrations.errors import InvalidInput, StorageError
from prefect_kosmokrator.integrations.media import Cost, Media
from prefect_kosmokrator.integrations.run import Run, running


@pytest.fixture
def media(picture):
    """A picture with its bytes."""
    return Media.from_bytes(picture(200, 100), "image/png; x=1", seed=7, function="generate_core", provider="stability")


def stored_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_media_measures_its_bytes(media, picture):
    assert (media.content_type, media.size, media.width, media.height) == (
        "image/png",
        len(picture(200, 100)),
        200,
        100,
    )
    assert media.sha256 == hashlib.sha256(picture(200, 100)).hexdigest()
    assert base64.b64decode(media.body_base64) == media.read() == picture(200, 100)


def test_media_shows_no_bytes(media):
    assert "content=" not in repr(media)
    assert "body_base64" not in media.to_json()
    assert json.loads(json.dumps(media.to_json()))["seed"] == "7"
    assert Media("image/png").to_json()["seed"] == ""


def test_media_travels_between_processes(media, tmp_path):
    again = pickle.loads(pickle.dumps(media))  # noqa: S301
    assert again == media
    assert again.read() == media.read()
    reference = pickle.dumps(media.save(tmp_path.as_uri()))
    assert len(reference) < 1500
    assert pickle.loads(reference).read() == media.read()  # noqa: S301


@pytest.mark.parametrize(
    ("content_type", "extension"),
    [("image/jpeg", "jpg"), ("video/mp4", "mp4"), ("audio/mpeg", "mp3"), ("model/gltf-binary", "glb"), ("x/y", "bin")],
)
def test_a_file_has_the_usual_extension(content_type, extension):
    assert Media(content_type).extension == extension


def test_a_file_is_stored_under_its_content_with_its_provenance(media, tmp_path):
    stored = media.save(tmp_path.as_uri())
    key = f"generate_core-{media.sha256[:12]}"
    assert stored_files(tmp_path) == [f"{key}-preview.webp", f"{key}.json", f"{key}.png"]
    assert stored.preview == (tmp_path / f"{key}-preview.webp").as_uri()
    assert stored.uri == (tmp_path / f"{key}.png").as_uri()
    assert (stored.content, stored.size, stored.store) == (None, media.size, tmp_path.as_uri())
    assert stored.read() == media.read()


def test_a_file_that_is_no_picture_has_no_preview(tmp_path):
    stored = Media.from_bytes(b"\x00\x00\x00 ftypisom", "video/mp4").save(tmp_path.as_uri())
    assert stored.preview is None
    assert len(stored_files(tmp_path)) == 2


def test_what_is_logged_and_sent_around_has_no_bytes(media):
    assert media.without_content() == media
    assert media.without_content().content is None


def test_storing_twice_is_harmless(media, tmp_path):
    assert media.save(tmp_path.as_uri()) == media.save(tmp_path.as_uri())
    assert len(stored_files(tmp_path)) == 3


def test_a_run_names_the_folder_and_a_step_the_file(media, tmp_path):
    with running(Run(name="quiet fox/2", metadata={"flow": "lamps"})):
        stored = media.save(tmp_path.as_uri(), name="step 1: lamp")
    (path,) = tmp_path.glob("quiet-fox-2/step-1--lamp-*.json")
    sidecar = json.loads(path.read_text())
    assert sidecar["run"] == {"name": "quiet fox/2", "flow": "lamps"}
    assert stored.read() == media.read()


@pytest.mark.parametrize("name", ["../../etc", "..", "///", "???", "💡"])
def test_no_name_of_a_run_leads_out_of_the_store_or_loses_a_paid_file(media, tmp_path, name):
    with running(Run(name=name)):
        try:
            stored = media.save((tmp_path / "store").as_uri())
            kept = Path(stored.uri.removeprefix("file://"))
        except StorageError as error:
            kept = error.spool
    assert kept.read_bytes() == media.read()
    assert {Path(path).parts[0] for path in stored_files(tmp_path)} <= {"store", "spool"}


def test_the_provenance_tells_how_a_file_was_made(fake, picture, tmp_path):
    fake.answer(fake.media(picture(96, 96), seed="5", x_request_id="req-1"))
    mask = Media("image/png", uri=(tmp_path / "mask.png").as_uri(), sha256="")
    (tmp_path / "mask.png").write_bytes(picture(mode="L"))
    stability.inpaint(picture(), "a cat", mask=mask, grow_mask=9, output=(tmp_path / "store").as_uri())
    sidecar = json.loads(next((tmp_path / "store").glob("*.json")).read_text())
    assert sidecar["parameters"]["image"] == {
        "sha256": hashlib.sha256(picture()).hexdigest(),
        "size": len(picture()),
    }
    assert sidecar["parameters"]["mask"] == {"sha256": "", "uri": mask.uri}
    assert (sidecar["parameters"]["prompt"], sidecar["parameters"]["grow_mask"]) == ("a cat", 9)
    assert (sidecar["provider"], sidecar["function"], sidecar["account"]) == ("stability", "inpaint", "default")
    assert (sidecar["seed"], sidecar["request_id"], sidecar["cost"]["amount"]) == ("5", "req-1", 5)
    assert set(sidecar["versions"]) == {"prefect-kosmokrator"}
    assert sidecar["created"].endswith("+00:00")


def test_no_secret_gets_into_the_provenance(fake, picture, tmp_path):
    fake.answer(fake.media(picture()), fake.media(picture(80, 80)))
    stability.remove_background("https://s3.example/a.png?X-Amz-Signature=deadbeef", output=tmp_path.as_uri())
    (sidecar,) = tmp_path.glob("*.json")
    assert '"https://s3.example/a.png"' in sidecar.read_text()
    for secret in ("deadbeef", "sk-a1b2c3", "api_key"):
        assert secret not in sidecar.read_text()


def test_an_address_without_a_signature_is_found_in_the_provenance_even_inside_an_input(emulator, picture, tmp_path):
    address = fal.upload_file(picture())["url"]
    data = {"prompt": "a lamp", "image_url": f"{address}?token=cafe", "strength": 0.5}
    job = fal.submit_request("fal-ai/flux/dev/image-to-image", data)
    fal.wait_for_request(job, output=tmp_path.as_uri())
    for sidecar in tmp_path.glob("*.json"):
        assert "cafe" not in sidecar.read_text()


def test_the_provenance_keeps_the_whole_prompt(fake, tmp_path):
    prompt = "A sign that reads https://lamps.example. Is it lit? Yes, brightly."
    fake.answer(fake.media())
    stability.generate_core(prompt, output=tmp_path.as_uri())
    (sidecar,) = tmp_path.glob("*.json")
    assert json.loads(sidecar.read_text())["parameters"]["prompt"] == prompt


def test_a_changed_file_is_not_taken_for_the_stored_one(media, tmp_path):
    stored = media.save(tmp_path.as_uri())
    Path(stored.uri.removeprefix("file://")).write_bytes(b"something else")
    with pytest.raises(StorageError, match="SHA-256 differs"):
        stored.read()


def test_a_missing_file_is_a_storage_error(media, tmp_path):
    stored = media.save(tmp_path.as_uri())
    Path(stored.uri.removeprefix("file://")).unlink()
    with pytest.raises(StorageError, match="Could not read") as caught:
        stored.read()
    assert caught.value.uri == stored.uri


def test_a_file_that_cannot_be_stored_is_spooled_whole(media, tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="paid for and is kept at") as caught:
        media.save((tmp_path / "store").as_uri())
    spool = caught.value.spool
    assert spool.parent == tmp_path / "spool"
    assert spool.read_bytes() == media.read()
    assert Media.from_bytes(spool.read_bytes(), "image/png").save((tmp_path / "other").as_uri()).read() == media.read()


def test_a_store_that_has_gone_by_the_time_of_storing_loses_nothing(media, monkeypatch):
    with pytest.raises(StorageError) as caught:
        media.save("gone")
    assert caught.value.spool.read_bytes() == media.read()


def test_without_a_place_for_the_spool_the_error_says_so(media, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KOSMO_SPOOL", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set KOSMO_SPOOL to a folder with space") as caught:
        media.save((tmp_path / "file").as_uri())
    assert caught.value.spool is None


def test_a_disk_that_fills_up_leaves_no_half_file_behind(tmp_path):
    code = f"""
import resource, signal
from pathlib import Path
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Media.from_bytes(bytes(200_000), "video/mp4").save({(tmp_path / "store").as_uri()!r})
except StorageError as error:
    print(error.spool, "File too large" in str(error), "KOSMO_SPOOL" in str(error))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.split() == ["None", "True", "True"]
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize("device", ["/dev/full", "/proc/self"])
def test_an_unwritable_place_is_a_storage_error(media, device):
    with pytest.raises(StorageError):
        media.save(f"file://{device}/lamps")


def test_a_half_written_file_is_never_seen(media, tmp_path, monkeypatch):
    def broken(source, target, *_length):
        target.write(source.read(10))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.shutil, "copyfileobj", broken)
    with pytest.raises(StorageError, match="No space left on device"):
        media.save((tmp_path / "store").as_uri())
    assert stored_files(tmp_path) == []


def test_media_without_bytes_or_address_cannot_be_read():
    with pytest.raises(StorageError, match="neither bytes nor an address"):
        Media("image/png").read()


def test_a_media_on_the_web_is_read_without_a_key(fake, picture):
    fake.answer(fake.media(picture()))
    media = Media("image/png", uri="https://v3.fal.media/files/a.png")
    assert media.read() == picture()
    assert "authorization" not in fake.sent[0].headers


def test_a_file_in_a_folder_with_odd_characters_is_found_again(media, tmp_path):
    for folder in ("50% off", "lamp #2", "what?", "größe"):
        stored = media.save((tmp_path / folder).as_uri())
        assert stored.read() == media.read()
        assert len(stored_files(tmp_path / folder)) == 3


@pytest.mark.parametrize("folder", ["lamp #2", "what?"])
def test_an_address_with_a_query_or_fragment_never_overwrites(media, picture, tmp_path, folder):
    # As somebody writes it by hand: file:///tmp/lamp #2
    saved = []
    for item in (media, Media.from_bytes(picture(64, 64), "image/png")):
        with contextlib.suppress(InvalidInput):
            saved.append((item, item.save(f"file://{tmp_path}/{folder}")))
    for item, stored in saved:
        assert stored.read() == item.read()


@pytest.mark.parametrize(
    ("cost", "text", "usd"),
    [
        (Cost(6.5, "credits", certain=True), "6.5 credits", 0.065),
        (Cost(0.025, "USD", certain=False), "~0.025 USD", 0.025),
        (Cost(None, "USD", certain=False), "unknown", None),
    ],
)
def test_a_cost_reads_well(cost, text, usd):
    assert (str(cost), cost.usd, cost.to_json()["usd"]) == (text, usd, usd)
