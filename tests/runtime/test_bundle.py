import json
import os
import shutil
import sys
import threading
import time
from dataclasses import replace

import pytest

from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.bundle.bundle import MANIFEST, Head, load_bundle, write_bundle
from ovsdino_runtime.bundle.manifest import manifest_digest


def edit(bundle, change) -> None:
    """Change the manifest, and sign it again where it can be read."""
    file = bundle.path / MANIFEST
    record = json.loads(file.read_text())
    change(record)
    record["digest"] = manifest_digest(record)
    file.write_text(json.dumps(record))


def test_a_bundle_comes_back_as_it_was_written(bundle, manifest, staging):
    again = load_bundle(bundle.path)
    assert again == bundle
    assert replace(again.manifest, files={}, digest="") == manifest
    assert set(again.manifest.files) == {path.name for path in staging.iterdir()}
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == ["tiny.ovs"]


def test_the_digest_of_a_graph_follows_what_it_computes(bundle):
    assert bundle.graph_digest("vision") != bundle.graph_digest("text")
    files = bundle.manifest.files | {"tokenizer.json": "0" * 64}
    other = replace(bundle, manifest=replace(bundle.manifest, files=files))
    assert other.graph_digest("vision") == bundle.graph_digest("vision")
    assert other.graph_digest("text") != bundle.graph_digest("text")


def test_a_changed_byte_is_found(bundle):
    file = bundle.path / "vision.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"vision\.onnx: changed or damaged: sha256 .*get the bundle again"):
        load_bundle(bundle.path)


def test_a_missing_file_is_named(bundle):
    (bundle.path / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing, though bundle\.json lists it"):
        load_bundle(bundle.path)


def test_a_file_too_many_is_named(bundle):
    (bundle.path / "kernels").mkdir()
    (bundle.path / "kernels" / "extra.ptx").write_text("")
    with pytest.raises(BundleError, match=r"kernels/extra\.ptx: bundle\.json does not list it; remove it"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/hostname", "..\\outside"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle, name):
    edit(bundle, lambda record: record["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="leads out of the bundle; do not use this bundle"):
        load_bundle(bundle.path)


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_that_leaves_the_bundle_is_refused(bundle, tmp_path):
    shutil.move(bundle.path / "golden.npz", tmp_path / "golden.npz")
    (bundle.path / "golden.npz").symlink_to(tmp_path / "golden.npz")
    with pytest.raises(BundleError, match=r"'golden\.npz' leads out of the bundle"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.update(schema_version=1),
            "schema_version 1, this runtime reads 2; export the model again",
        ),
        (lambda r: r.pop("schema_version"), "schema_version None, this runtime reads 2"),
        (lambda r: r.pop("head"), "missing key head"),
        (lambda r: r.update(colour="red"), "unknown key colour"),
        (lambda r: r["head"].update(gain=1), "head: unknown key gain"),
        (lambda r: r["head"].update(scale="10"), r'head\.scale: expected float, got "10"'),
        (lambda r: r["head"].update(scale=-1), "head: scale must be positive, got -1"),
        (lambda r: r["windows"].update(stride=65), "windows: stride must be in 1..64"),
        (
            lambda r: r["preprocessing"].update(mean=[0.5, 0.5]),
            "preprocessing.mean: expected 3 values, got 2",
        ),
        (
            lambda r: r["graphs"]["vision"].update(precision="int4"),
            r"graphs\.vision\.precision: expected .*'fp32'",
        ),
        (lambda r: r["graphs"].pop("text"), "graph text is missing"),
        (lambda r: r["graphs"].update(decoder=r["graphs"]["text"]), "unknown graph decoder"),
        (lambda r: r["graphs"]["text"].update(file="other.onnx"), r"other\.onnx is not among its files"),
        (lambda r: r.pop("kernels"), "missing key kernels"),
        (
            lambda r: r.update(kernels=[{"operator": "Gate"}]),
            r"kernels\[0\]: missing key arguments, constants",
        ),
        (lambda r: r.update(templates=[]), r"templates \(\): expected some"),
        (lambda r: r.update(templates=["a photo"]), "expected some, each with {} in it"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused_by_name(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(bundle.path)
    assert str(bundle.path / MANIFEST) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "expected an object"),
        ('{"schema_version": 1, "schema_version": 1}', "'schema_version' occurs twice"),
        ('{"schema_version": NaN}', "NaN is not a number"),
    ],
)
def test_a_manifest_that_is_not_json_is_refused(bundle, text, message):
    (bundle.path / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


def test_a_path_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"nothing\.ovs/bundle\.json: no such file; a bundle is a directory"
    ):
        load_bundle(tmp_path / "nothing.ovs")


def test_a_bundle_is_replaced_only_when_asked(bundle, manifest, staging):
    with pytest.raises(BundleError, match="exists already"):
        write_bundle(bundle.path, manifest, staging)
    renamed = replace(manifest, name="other")
    assert write_bundle(bundle.path, renamed, staging, overwrite=True).manifest.name == "other"
    assert load_bundle(bundle.path).manifest.name == "other"
    assert [path.name for path in bundle.path.parent.iterdir()] == ["tiny.ovs"]


def test_a_directory_that_is_no_bundle_is_not_replaced(manifest, staging, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "photos", manifest, staging, overwrite=True)


def test_nothing_is_left_when_writing_fails(manifest, staging, tmp_path):
    incomplete = tmp_path / "incomplete"
    shutil.copytree(staging, incomplete)
    (incomplete / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz is not among its files"):
        write_bundle(tmp_path / "new.ovs", manifest, incomplete)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_bundle(tmp_path / "new.ovs", replace(manifest, head=Head(float("inf"), 0, 0)), staging)
    assert [path.name for path in tmp_path.iterdir()] == ["incomplete"]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of files")
def test_a_disk_that_fills_up_leaves_nothing(staging, manifest, tmp_path):
    """A limit on the size of files fails in the middle of a copy, as a full disk does."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(file.stat().st_size for file in staging.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
    try:
        with pytest.raises(BundleError, match=r"tiny\.ovs: cannot be written: .*File too large.*; make room"):
            write_bundle(tmp_path / "tiny.ovs", manifest, staging)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


DINOV3SEG = {
    "view": 96,
    "whole": "window",
    "unit_length": True,
    "halves": [[0, 2], [2, 4]],
    "pad_length": 8,
    "absent_logit": -100.0,
}


def make_dinov3seg(record, **changes):
    """Give a manifest the graphs of dinov3.seg; their files do not matter here."""
    record["dinov3seg"] = DINOV3SEG | changes
    record["graphs"] |= dict.fromkeys(("late", "decoder"), record["graphs"]["text"])


def test_a_bundle_of_the_other_system_says_how_it_decodes(bundle):
    edit(bundle, make_dinov3seg)
    dinov3seg = load_bundle(bundle.path).manifest.dinov3seg
    assert (dinov3seg.view, dinov3seg.whole, dinov3seg.halves) == (96, "window", ((0, 2), (2, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (make_dinov3seg(r), r["graphs"].pop("late")), "graph late is missing"),
        (lambda r: make_dinov3seg(r, whole="view"), "graph whole is missing"),
        (lambda r: make_dinov3seg(r, whole="both"), r"dinov3seg\.whole: expected .*'view'.*, got \"both\""),
        (lambda r: make_dinov3seg(r, pad_length=0), "view and pad_length must be positive, got 96 and 0"),
        (lambda r: make_dinov3seg(r, halves=[[2, 2]]), r"halves must be columns from, to; got \(\(2, 2\),\)"),
        (lambda r: make_dinov3seg(r, halves=[]), r"halves must be columns from, to; got \(\)"),
        (lambda r: make_dinov3seg(r, fusion="features"), "dinov3seg: unknown key fusion"),
    ],
)
def test_how_it_decodes_is_checked(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


def test_a_bundle_from_before_the_other_system_is_read(bundle):
    edit(bundle, lambda record: record.pop("dinov3seg"))
    assert load_bundle(bundle.path).manifest.dinov3seg is None


def test_graphs_that_share_weights_follow_them(bundle, manifest):
    graphs = manifest.graphs | {"whole": replace(manifest.graphs["vision"], file="whole.onnx")}
    files = {"whole.onnx": "1" * 64, "vision.data": "2" * 64}
    whole = replace(bundle, manifest=replace(manifest, graphs=graphs, files=files))
    other = replace(whole, manifest=replace(whole.manifest, files=files | {"vision.data": "3" * 64}))
    assert whole.graph_digest("whole") != other.graph_digest("whole")


def test_a_manifest_that_was_edited_is_refused(bundle):
    file = bundle.path / MANIFEST
    record = json.loads(file.read_text())
    record["preprocessing"]["std"] = [0.9, 0.9, 0.9]
    file.write_text(json.dumps(record))
    with pytest.raises(BundleError, match=r"changed after it was written: digest .*export the model again"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["windows"].update(size=10**9), "windows.size must be at most 4096 px"),
        (lambda r: r["windows"].update(stride=1), "windows.stride must be at least a 16th"),
        (lambda r: r["preprocessing"].update(long_side=10**9), "long_side must be at most 8192"),
        (lambda r: r["files"].update({f"{n}.bin": "0" * 64 for n in range(2000)}), "at most 1000, got 20"),
        (lambda r: r.update(templates=["{}"] * 2000), "templates: expected at most 1000"),
        (lambda r: r.update(templates=["{}" + "a" * 5000]), "of up to 5002"),
        (lambda r: r["text"].update(width=0), "text.width and text.context_length must be in"),
        (lambda r: r["head"].update(scale=10**400), "head.scale: the number is too large"),
        (lambda r: r["files"].update({"a\0b": "0" * 64}), "leads out of the bundle"),
    ],
)
def test_a_manifest_that_would_take_hours_or_all_memory_is_refused(bundle, change, message):
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema_version": 1e999}', "\0"])
def test_hostile_json_is_one_line(bundle, text):
    (bundle.path / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        load_bundle(bundle.path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_a_pipe_or_a_link_to_nothing_is_refused(bundle):
    (bundle.path / "golden.npz").unlink()
    os.mkfifo(bundle.path / "golden.npz")
    with pytest.raises(BundleError, match="not a file, or a link to nothing"):
        load_bundle(bundle.path)
    (bundle.path / "golden.npz").unlink()
    (bundle.path / "golden.npz").symlink_to("golden.npz")
    with pytest.raises(BundleError):
        load_bundle(bundle.path)


def test_a_killed_writer_is_cleared_up_after(bundle, staging):
    parent = bundle.path.parent
    dead = parent / f".{bundle.path.name}.abcd1234"
    (dead / "new").mkdir(parents=True)
    (dead / "lock").touch()
    os.utime(dead, (0, 0))
    write_bundle(bundle.path, bundle.manifest, staging, overwrite=True)
    assert [path.name for path in parent.iterdir()] == [bundle.path.name]


def test_an_old_bundle_that_a_killed_writer_moved_away_is_found_again(bundle):
    dead = bundle.path.parent / f".{bundle.path.name}.abcd1234"
    dead.mkdir()
    (dead / "lock").touch()
    bundle.path.rename(dead / "old")
    os.utime(dead, (0, 0))
    assert load_bundle(bundle.path).manifest == bundle.manifest
    assert not dead.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_a_bundle_is_there_at_every_moment_while_it_is_replaced(bundle, staging):
    missing, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            if not (bundle.path / MANIFEST).is_file():
                missing.append(time.monotonic())

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(10):
        write_bundle(bundle.path, bundle.manifest, staging, overwrite=True)
    stop.set()
    watcher.join()
    assert not missing


def test_where_the_system_cannot_exchange_the_old_one_stays_until_the_new_one_is_there(
    bundle, staging, monkeypatch
):
    monkeypatch.setattr("ovsdino_runtime.bundle.exchange._exchange_at_once", lambda *_: False)
    write_bundle(bundle.path, replace(bundle.manifest, name="new"), staging, overwrite=True)
    assert load_bundle(bundle.path).manifest.name == "new"
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]
