"""A bundle of the Hub: fetched once by huggingface_hub from a server on loopback, offline from then on."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.bundle.hub import is_repository
from ovsdino_runtime.cli import run
from ovsdino_runtime.segmenter import Segmenter

pytest.importorskip("huggingface_hub")
from tests.zoo.servers import COMMIT, serving

OTHER = "f" * 40


@pytest.fixture
def hub(shared_bundle, monkeypatch):
    """Serve the bundle as the repository me/colours, at main and at its commit."""
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        for file in shared_bundle.path.rglob("*"):
            if file.is_file():
                name = file.relative_to(shared_bundle.path).as_posix()
                for revision in ("main", "v1", COMMIT):
                    server.files[f"/me/colours/resolve/{revision}/bundle/{name}"] = file.read_bytes()
        yield server


def test_a_repository_is_fetched_once_and_gives_the_same_labels(hub, shared_bundle, flag):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        expected = segmenter(flag, "red, green, blue").labels
    for _ in range(2):
        with Segmenter.load("me/colours", threads=1) as segmenter:
            assert np.array_equal(segmenter(flag, "red, green, blue").labels, expected)
            assert COMMIT in segmenter.bundle.path.name
            assert segmenter.bundle.digest == shared_bundle.digest
        asked, hub.asked = hub.asked, []
    assert asked == []  # the second time
    assert not list(segmenter.bundle.path.parent.glob(".*"))


def test_the_commit_of_the_first_time_stays(hub, monkeypatch):
    with Segmenter.load("me/colours", threads=1) as segmenter:
        first = segmenter.bundle.path
    monkeypatch.setattr("tests.zoo.servers.COMMIT", OTHER)  # somebody pushed
    with Segmenter.load("me/colours", threads=1) as segmenter:
        assert segmenter.bundle.path == first
    with Segmenter.load(f"me/colours@{COMMIT}", threads=1) as segmenter:
        assert segmenter.bundle.path == first


def test_a_changed_file_is_refused_and_nothing_is_kept(hub, cache):
    [graph] = [path for path in hub.files if path.endswith(f"{COMMIT}/bundle/vision.onnx")]
    hub.files[graph] = hub.files[graph][:-1] + b"?"
    with pytest.raises(BundleError, match="changed or damaged"):
        Segmenter.load("me/colours", threads=1)
    folder = cache / "models" / "hub"
    assert not list(folder.glob("*"))


def test_a_file_that_leads_out_is_refused(hub, cache):
    path = f"/me/colours/resolve/{COMMIT}/bundle/bundle.json"
    manifest = json.loads(hub.files[path])
    manifest["files"]["../../outside"] = "0" * 64
    hub.files[path] = json.dumps(manifest).encode()
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Segmenter.load("me/colours", threads=1)


def test_the_command_takes_a_repository_and_refuses_in_one_line(hub, flag_file, tmp_path):
    options = [str(flag_file), "--classes", "red, blue", "--out", str(tmp_path / "out"), "--threads", "1"]
    done = CliRunner().invoke(run, [*options, "--model", "me/colours@v1"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(run, [*options, "--model", "me/nothing"])
    assert done.exit_code == 2
    assert "me/nothing: bundle/bundle.json at main was not fetched" in done.output
    assert "Traceback" not in done.output


def test_what_looks_like_a_path_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_repository("me/colours")
    assert is_repository("me/colours@v1")
    for name in ("nano", "runs/colours", "me/colours.ovs", "./colours", "/me/colours", "a/b/c", "../colours"):
        assert not is_repository(name)
    assert not is_repository(tmp_path / "me" / "colours")


@pytest.mark.skipif(os.name == "nt", reason="the user's profile is closed there")
def test_what_another_user_can_change_is_not_used(hub, cache):
    with Segmenter.load("me/colours", threads=1) as segmenter:
        bundle = segmenter.bundle.path
    assert {folder.stat().st_mode & 0o777 for folder in (cache, cache / "models", bundle.parent)} == {0o700}
    for folder in (cache, cache / "models", bundle.parent, bundle):
        folder.chmod(0o777)
        with pytest.raises(BundleError, match=rf"not used, .*: {folder} can be written by other users"):
            Segmenter.load("me/colours", threads=1)
        folder.chmod(0o755)
    pin = bundle.with_name("me--colours@main.commit")
    pin.chmod(0o666)
    with pytest.raises(BundleError, match=rf"{pin} can be written by other users; run: chmod go-w"):
        Segmenter.load("me/colours", threads=1)
