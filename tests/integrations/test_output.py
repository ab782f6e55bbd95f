"""Output stores: folders and S3, against a real S3 API server."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from prefect_kosmokrator.integrations import fal, output, stability
from prefect_kosmokrator.integrations.errors import ConfigurationError, InvalidInput, StorageError
from prefect_kosmokrator.integrations.media import Media
from prefect_kosmokrator.integrations.output import OutputStore, file_path, split_s3


def test_a_picture_is_stored_in_s3_with_its_type_and_provenance(fake, bucket, picture):
    fake.answer(fake.media(picture(80, 60), seed="3"))
    media = stability.generate_core("a lamp", output=f"s3://{bucket.name}/lamps/")
    key = f"lamps/generate_core-{media.sha256[:12]}"
    assert media.uri == f"s3://{bucket.name}/{key}.png"
    assert sorted(item.key for item in bucket.objects.all()) == [f"{key}-preview.webp", f"{key}.json", f"{key}.png"]
    stored = bucket.Object(f"{key}.png").get()
    assert (stored["ContentType"], stored["Body"].read()) == ("image/png", picture(80, 60))
    sidecar = bucket.Object(f"{key}.json").get()
    assert sidecar["ContentType"] == "application/json"
    assert json.loads(sidecar["Body"].read())["uri"] == media.uri
    assert media.content is None


def test_a_stored_picture_is_the_input_of_the_next_function(fake, bucket, picture):
    fake.answer(fake.media(picture(80, 60)), fake.media(), fake.media())
    media = stability.generate_core("a lamp", output=f"s3://{bucket.name}/lamps")
    stability.upscale_fast(media)
    stability.upscale_fast(media.uri)
    assert [sent.form["image"][1:] for sent in fake.sent[1:]] == [("image/png", picture(80, 60))] * 2


def test_a_missing_bucket_keeps_the_paid_bytes(fake, bucket, picture):
    fake.answer(fake.media(picture(80, 60)))
    with pytest.raises(StorageError, match=r"no-such-bucket.*Check that the bucket") as caught:
        stability.generate_core("a lamp", output="s3://no-such-bucket/lamps")
    assert caught.value.spool.read_bytes() == picture(80, 60)
    assert caught.value.uri.startswith("s3://no-such-bucket/lamps/generate_core-")


def test_a_store_that_is_down_keeps_the_paid_bytes(fake, bucket, picture, monkeypatch):
    monkeypatch.setenv("KOSMO_OUTPUT_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
    fake.answer(fake.media(picture(80, 60)))
    with pytest.raises(StorageError, match="Could not connect") as caught:
        stability.generate_core("a lamp", output="s3://bucket/lamps")
    assert caught.value.spool.read_bytes() == picture(80, 60)


def test_missing_credentials_are_named_and_keep_the_paid_bytes(fake, bucket, picture, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    output._cached_s3_client.cache_clear()
    fake.answer(fake.media(picture(80, 60)))
    with pytest.raises(StorageError, match="credentials") as caught:
        stability.generate_core("a lamp", output=f"s3://{bucket.name}")
    assert caught.value.spool.read_bytes() == picture(80, 60)
    output._cached_s3_client.cache_clear()


def test_a_missing_object_is_a_storage_error(bucket):
    media = Media("image/png", uri=f"s3://{bucket.name}/nothing.png")
    with pytest.raises(StorageError, match="Could not read") as caught:
        media.read()
    assert caught.value.uri == media.uri


def test_a_changed_object_is_not_taken_for_the_stored_one(bucket, picture):
    media = Media.from_bytes(picture(), "image/png").save(f"s3://{bucket.name}")
    bucket.Object(split_s3(media.uri)[1]).put(Body=b"something else")
    with pytest.raises(StorageError, match="SHA-256 differs"):
        media.read()


def test_a_saved_store_is_found_by_name_with_its_own_credentials(fake, bucket, picture, s3_server, monkeypatch):
    for name in ("KOSMO_OUTPUT_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = OutputStore(f"s3://{bucket.name}/kept", s3_server, "operator", SecretStr("operator-secret"), "us-east-1")
    monkeypatch.setattr(output, "finders", [lambda name: store if name == "lamps" else None])
    fake.answer(fake.media(picture(80, 60)))
    media = stability.generate_core("a lamp", output="lamps")
    assert (media.store, media.uri.startswith(f"s3://{bucket.name}/kept/")) == ("lamps", True)
    assert media.read() == picture(80, 60)
    assert "operator-secret" not in repr(store)
    with pytest.raises(InvalidInput, match="neither the name of a saved output store nor a URL"):
        stability.generate_core("a lamp", output="other")


def test_a_link_opens_a_stored_file_for_a_while(bucket, picture):
    media = Media.from_bytes(picture(), "image/png").save(f"s3://{bucket.name}")
    link = media.link()
    assert httpx.get(link).content == picture()
    assert httpx.get(media.link(preview=True)).content[8:12] == b"WEBP"
    assert "X-Amz-Expires=604800" in link
    assert "operator-secret" not in link


def test_a_local_file_has_a_link_where_the_default_folder_is_served(picture, tmp_path, monkeypatch):
    inside = Media.from_bytes(picture(), "image/png").save((tmp_path / "outputs" / "a b").as_uri())
    outside = Media.from_bytes(picture(), "image/png").save((tmp_path / "elsewhere").as_uri())
    assert inside.link() is None
    monkeypatch.setenv("KOSMO_OUTPUT", (tmp_path / "outputs").as_uri())
    monkeypatch.setenv("KOSMO_GALLERY_URL", "http://localhost:8000/")
    assert inside.link() == f"http://localhost:8000/a%20b/{file_path(inside.uri).name}"
    assert outside.link() is None
    assert Media("image/png", uri="https://x.example/a.png").link() == "https://x.example/a.png"
    assert Media("image/png").link() is None


def test_a_check_writes_reads_and_removes(bucket, tmp_path):
    OutputStore(f"s3://{bucket.name}/x").check()
    OutputStore((tmp_path / "new").as_uri()).check()
    assert list(bucket.objects.all()) == []
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(StorageError, match="no-such-bucket"):
        OutputStore("s3://no-such-bucket").check()


def test_the_default_output_can_be_set(monkeypatch):
    assert output.default_output() == "file://./outputs"
    monkeypatch.setenv("KOSMO_OUTPUT", "s3://bucket/x")
    assert output.default_output() == "s3://bucket/x"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv/a", "/srv/a"),
        ("file://./outputs/a", "{cwd}/outputs/a"),
        ("file://../a", "{parent}/a"),
        ("file://~/a", "{home}/a"),
    ],
)
def test_a_file_address_is_a_path(uri, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert str(file_path(uri)) == path.format(cwd=tmp_path, parent=tmp_path.parent, home="/home/ada")


def test_a_file_address_on_another_host_is_refused():
    with pytest.raises(ConfigurationError, match="Write file:///folder"):
        file_path("file://server/share")


def test_a_relative_store_is_read_back_after_the_folder_has_changed(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media = Media.from_bytes(picture(), "image/png").save("file://./outputs")
    monkeypatch.chdir("/")
    assert media.uri.startswith((tmp_path / "outputs").as_uri())
    assert media.read() == picture()


def test_a_stored_file_can_be_read_by_others(picture, tmp_path):
    media = Media.from_bytes(picture(), "image/png").save(tmp_path.as_uri())
    assert Path(file_path(media.uri)).stat().st_mode & 0o777 == 0o644


def test_a_picture_of_fal_goes_from_its_cdn_to_s3(emulator, bucket):
    found = fal.wait_for_request(
        fal.submit_request("fal-ai/flux/dev", {"prompt": "a lamp", "num_images": 2}), output=f"s3://{bucket.name}/fal"
    )
    assert len(list(bucket.objects.filter(Prefix="fal/fal-ai-flux-dev-"))) == 2 * 3
    assert [media.read()[:3] for media in found.media] == [b"\xff\xd8\xff"] * 2


LARGE = """
import re, sys
from pathlib import Path
from prefect_kosmokrator.integrations import fal

def peak():  # of this program; getrusage would count the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

job = fal.submit_request("fal-ai/wan-t2v", {"prompt": "a lamp", "_emulator": {"size_bytes": int(sys.argv[2])}})
small = fal.wait_for_request(fal.submit_request("fal-ai/ltx-video", {"prompt": "a lamp"}), output=sys.argv[1])
before = peak()
media = fal.wait_for_request(job, output=sys.argv[1]).media[0]
print(media.size, peak() - before)
"""


def test_a_large_video_goes_to_s3_with_flat_memory(emulator, bucket):
    size = 96 * 1024 * 1024
    arguments = [sys.executable, "-c", LARGE, f"s3://{bucket.name}/big", str(size)]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=50)
    stored, grown = map(int, shown.stdout.split())
    assert stored == size
    # boto3 sends ten parts of 8 MiB at a time, which it reads from the file as it sends them.
    assert grown < 40 * 1024, f"grew by {grown // 1024} MiB"
    (video,) = (item for item in bucket.objects.filter(Prefix="big/fal-ai-wan-t2v") if item.key.endswith(".mp4"))
    assert video.size == size
    assert video.e_tag.strip('"').endswith("-12")


# ------------------------------------------------------------------ small files


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    """A store of each kind."""
    if request.param == "file":
        return OutputStore((tmp_path / "store").as_uri())
    return OutputStore(f"s3://{request.getfixturevalue('bucket').name}/ledger")


def test_a_store_keeps_small_files(store):
    assert store.get("a/b.json") is None
    assert store.put_new("a/b.json", b"one")
    assert not store.put_new("a/b.json", b"two")
    store.put(b"", "a/c", "text/plain")
    store.put(b"", "ab/d", "text/plain")
    assert (store.get("a/b.json"), store.keys("a"), store.keys("none")) == (b"one", ["a/b.json", "a/c"], [])
    store.remove("a/b.json")
    store.remove("a/b.json")
    assert store.get("a/b.json") is None


def test_of_many_at_a_time_exactly_one_is_first(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_new("claim", str(number).encode()), range(24)))
    assert won.count(True) == 1
    assert store.get("claim") == str(won.index(True)).encode()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    store = OutputStore(tmp_path.as_uri())

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "_flush", full)
    with pytest.raises(StorageError, match="No space left"):
        store.put_new("open/run/call.json", b"{}")
    assert list(tmp_path.rglob("*.json")) == []


def test_a_store_without_hard_links_keeps_what_came_first(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links")

    monkeypatch.setattr(output.os, "link", refuse)
    store = OutputStore(tmp_path.as_uri())
    assert (store.put_new("claim", b"one"), store.put_new("claim", b"two")) == (True, False)
    assert (store.get("claim"), [path.name for path in tmp_path.iterdir()]) == (b"one", ["claim"])
