"""Files come whole or not at all, from a real server on loopback that cuts, lies and forgets."""

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple

import pytest
from click.testing import CliRunner

from ovsdino.zoo import catalogue, download, store
from ovsdino.zoo.catalogue import ENTRIES, CatalogueEntry, GatedFile, HubFile, WebFile
from ovsdino.zoo.cli import models
from ovsdino.zoo.fetch import fetch, fetch_file
from ovsdino.zoo.store import FetchError, weights_folder
from tests.zoo.servers import COMMIT, serving

DATA = bytes(range(256)) * 4000  # 1 MB
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        monkeypatch.setattr(download, "TIMEOUT", 5.0)
        monkeypatch.setattr(download.time, "sleep", lambda _: None)
        server.files["/w/thing.pth"] = DATA
        server.files["/o/r/resolve/main/model.safetensors"] = DATA
        server.files[f"/o/r/resolve/{COMMIT}/model.safetensors"] = DATA
        yield server


@pytest.fixture
def enter(monkeypatch):
    """Put an entry into the catalogue."""

    def enter(*files, name="thing", **changes):
        monkeypatch.setitem(ENTRIES, name, CatalogueEntry("a thing", "MIT", files, **changes))

    return enter


def only(folder):
    return [path.name for path in folder.iterdir()]


def test_a_cut_file_goes_on_where_it_was_cut(server, enter):
    enter(WebFile(f"{server.address}/w/thing.pth", len(DATA), DIGEST))
    server.cuts = [300_000, 200_000]
    lines, seen = [], []
    folder = fetch("thing", lines.append, lambda done, total: seen.append((done, total)))
    assert (folder / "thing.pth").read_bytes() == DATA
    assert only(folder) == ["thing.pth"]
    assert [asked for _, _, asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert seen[-1] == (len(DATA), len(DATA))
    assert f"sha256 {DIGEST} (as expected)" in lines[-1]
    fetch("thing")
    assert len(server.asked) == 3  # what is there is not asked for again


def test_a_killed_fetch_goes_on_and_never_mixes_versions(server, enter):
    enter(WebFile(f"{server.address}/w/thing.pth", len(DATA), DIGEST[:8]))
    staging = weights_folder("thing") / ".partial"
    for mark, asked in ((DIGEST, "bytes=1000-"), ("another", "bytes=1000-"), (None, None)):
        shutil.rmtree(weights_folder("thing"), ignore_errors=True)
        staging.mkdir(parents=True)
        (staging / "thing.pth").write_bytes(DATA[:1000] if mark == DIGEST else b"x" * 1000)
        if mark:
            (staging / "thing.pth.etag").write_text(f'"{mark}"')
        folder = fetch("thing")
        assert (folder / "thing.pth").read_bytes() == DATA
        assert server.asked[-1][2] == asked


def test_a_server_without_ranges_sends_all_again(server, enter):
    enter(WebFile(f"{server.address}/w/thing.pth", len(DATA), DIGEST))
    server.ranges, server.cuts = False, [300_000]
    assert (fetch("thing") / "thing.pth").read_bytes() == DATA


def test_a_wrong_hash_leaves_nothing(server, enter):
    enter(WebFile(f"{server.address}/w/thing.pth", len(DATA), "00000000"))
    with pytest.raises(FetchError, match=f"thing.pth: sha256 {DIGEST}, expected 00000000; it was removed"):
        fetch("thing")
    assert not list(weights_folder("thing").rglob("thing*"))


@pytest.mark.parametrize("kind", ["web", "hub"])
def test_a_missing_file_is_one_line_with_address_and_place(server, enter, kind):
    web, hub = WebFile(f"{server.address}/w/none.pth", 1), HubFile("o/none", "none.pth", 1)
    enter(web if kind == "web" else hub)
    result = CliRunner().invoke(models, ["fetch", "thing"])
    assert result.exit_code == 2
    *_, line = result.stderr.strip().splitlines()
    assert line.startswith(f"Error: none.pth from {server.address}/")
    assert f"belongs in {weights_folder('thing')}, but " in line
    assert "404" in line


def test_no_network_is_one_line(enter, monkeypatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    enter(WebFile(f"http://127.0.0.1:{port}/thing.pth", 1))
    with pytest.raises(FetchError, match=rf"thing\.pth from http.*{port}/thing\.pth belongs in .*refused"):
        fetch("thing")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    enter(HubFile("o/r", "model.safetensors", 1))
    with pytest.raises(FetchError, match=rf"{port}/o/r/resolve/main/model\.safetensors belongs in"):
        fetch("thing")


def test_offline_is_honoured(server, enter, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for file in (WebFile(f"{server.address}/w/thing.pth", 1), HubFile("o/r", "model.safetensors", 1)):
        enter(file)
        with pytest.raises(FetchError, match="HF_HUB_OFFLINE forbids the network; copy it there"):
            fetch("thing")
    assert not server.asked


def test_a_disk_without_room_is_refused_before_anything_is_asked(server, enter, monkeypatch):
    enter(WebFile(f"{server.address}/w/thing.pth", 5_000_000_000))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 1_000_000))
    with pytest.raises(FetchError, match=r"the disk has 1 MB left and .* are needed: make room"):
        fetch("thing")
    assert not server.asked


def test_a_disk_that_fills_up_is_one_line_and_keeps_what_came(server, enter, monkeypatch):
    enter(WebFile(f"{server.address}/w/thing.pth", len(DATA)))

    def fill(_source, file, **_):
        file.write(DATA[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", fill)
        with pytest.raises(FetchError, match="No space left on device: make room, or set OVSDINO_CACHE"):
            fetch("thing")
    assert not (weights_folder("thing") / "thing.pth").exists()
    assert (fetch("thing") / "thing.pth").read_bytes() == DATA
    assert server.asked[-1][2] == "bytes=10-"


def test_the_hubs_protocol_with_revision_and_its_own_hash(server, enter, capfd):
    lines = []
    enter(HubFile("o/r", "model.safetensors", len(DATA), revision=COMMIT))
    folder = fetch("thing", lines.append)
    assert (folder / "model.safetensors").read_bytes() == DATA
    assert only(folder) == ["model.safetensors"]
    assert ("GET", f"/o/r/resolve/{COMMIT}/model.safetensors", None) in server.asked
    assert lines[-1] == f"model.safetensors: sha256 {DIGEST} (as expected)"  # the Hub told it


def test_a_file_that_is_not_what_the_hub_says_is_refused(server, enter, capfd):
    server.hashes["/o/r/resolve/main/model.safetensors"] = "0" * 64
    enter(HubFile("o/r", "model.safetensors", len(DATA)))
    with pytest.raises(FetchError, match="expected 0000"):
        fetch("thing")
    assert not (weights_folder("thing") / "model.safetensors").exists()


def test_a_gated_file_names_the_form_and_the_folder(tmp_path):
    with pytest.raises(FetchError, match=r"only to those who ask.*https://ask\.it, and put the file into"):
        fetch_file(GatedFile("g.pth", "https://ask.it", 1), tmp_path, report=print, progress=print)
    result = CliRunner().invoke(models, ["fetch", "dinotxt-vitl16"])
    assert result.exit_code == 2
    assert "ai.meta.com/resources/models-and-libraries/dinov3-downloads/" in result.stderr


def test_a_gated_file_that_was_put_there_is_checked(monkeypatch):
    file = GatedFile(file="g.pth", page="https://ask.it", size=1, sha256=DIGEST[:8])
    monkeypatch.setitem(ENTRIES, "gated", CatalogueEntry("a thing", "MIT", (file,)))
    folder = weights_folder("gated")
    folder.mkdir(parents=True)
    (folder / "g.pth").write_bytes(DATA)
    lines = []
    assert fetch("gated", lines.append) == folder
    assert "as expected" in lines[0]
    (folder / "g.pth").write_bytes(b"other")
    with pytest.raises(FetchError, match=f"expected {DIGEST[:8]}; take it away, and ask for it again"):
        fetch("gated")
    assert (folder / "g.pth").read_bytes() == b"other"  # it is not ours to remove


def test_the_list_has_sizes_licences_states_and_sources(server, cache):
    folder = weights_folder("dinov2-vitb14")
    folder.mkdir(parents=True)
    (folder / "dinov2_vitb14_pretrain.pth").touch()
    store.bundle_path("talk2dino-vitb14").mkdir(parents=True)
    result = CliRunner().invoke(models)
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.output.splitlines() if line and line[0] != " "}
    assert set(ENTRIES) | {"nano"} <= set(lines)
    assert lines["talk2dino-vitb14"].split()[1:4] == ["bundle", "about", "949"]
    assert lines["dinov2-vitb14"].split()[1] == "fetched"
    assert lines["sam-vitb"].split()[1] == "-"
    assert result.output.count("licence: ") == len(ENTRIES)
    assert (
        f"from {server.address}/lorebianchi98/Talk2DINO-ViTL/resolve/main/model.safetensors" in result.output
    )


def test_the_catalogue_claims_no_more_than_it_knows():
    for name, entry in ENTRIES.items():
        assert entry.licence, name
        for file in entry.files:
            assert file.size > 1e8
            if file.sha256:
                assert file.sha256 in file.file  # the official names hold the first digits
            assert not isinstance(file, WebFile) or file.url.startswith("https://")
    assert catalogue.HubFile("a/b", "c d", 1).address() == "https://huggingface.co/a/b/resolve/main/c%20d"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("talk2dino-vitb14", 2, "`ovsdino models prepare talk2dino-vitb14` fetches about 949 MB and exports"),
        ("dinotxt-vitl16", 2, "fetches about 3.5 GB"),
        ("sam-vitb", 3, None),
        ("nnao", 3, None),
    ],
)
def test_first_use_asks_nobody_who_cannot_answer(name, code, words):
    result = CliRunner().invoke(models, ["prepare", "--first-use", name])
    assert result.exit_code == code
    if words:
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_prepare_refuses_what_is_no_model():
    result = CliRunner().invoke(models, ["prepare", "sam-vitb"])
    assert result.exit_code == 2
    assert "sam-vitb is no model; `ovsdino models fetch sam-vitb`" in result.stderr
    result = CliRunner().invoke(models, ["fetch", "nnao"])
    assert "unknown name 'nnao'; known: talk2dino-vitb14," in result.stderr


def test_list_and_fetch_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ovsdino.zoo.cli import models\n"
        "models([], standalone_mode=False); import ovsdino.zoo.fetch"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "talk2dino-vitl14" in done.stdout
