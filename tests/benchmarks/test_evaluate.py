"""The same result to the last digit, however the work is split; and that what is done is not done again."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ovsdino_benchmarks.datasets.dataset import open_folder
from ovsdino_benchmarks.datasets.protocol import own_protocol
from ovsdino_benchmarks.model_variants.models import ModelSpec, open_segmenter
from ovsdino_benchmarks.quality import evaluate as module
from ovsdino_benchmarks.quality.evaluate import evaluate
from ovsdino_runtime.base.photo_options import PhotoOptions
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.files.labeled_folder import DataError
from ovsdino_runtime.geometry.metrics import Counts, count, scores


@pytest.fixture
def spec(tiny):
    return ModelSpec(tiny, threads=1)


@pytest.fixture
def protocol(tiny):
    return own_protocol(load_bundle(tiny).manifest)


def figures(found):
    result, counts = found
    exact = result.miou, result.miou_all, result.boundary_miou, result.pixel_accuracy, result.classes
    return exact, counts.confusion.tolist(), counts.boundary.tolist()


@pytest.fixture
def one_process(spec, protocol, stripes, tmp_path):
    return evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "one")


def test_it_is_the_sum_over_all_photos(one_process, spec, protocol, stripes):
    dataset, segmenter = open_folder(stripes), open_segmenter(spec, protocol)
    total = Counts.zero(3)
    for sample in dataset.samples:
        total += count(dataset.truth(sample), segmenter(sample.photo, dataset.vocabulary).labels, 3)
    result, counts = one_process
    np.testing.assert_array_equal(counts.confusion, total.confusion)
    assert result.miou == scores(total).miou
    assert result.miou > 0.9  # the model does tell colours apart
    assert (result.photos, result.extent, result.threshold) == (11, "own folder", None)


def test_two_workers_give_the_same(one_process, spec, protocol, stripes, tmp_path):
    two = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "two", workers=2)
    assert figures(two) == figures(one_process)


def test_three_ranks_give_the_same(one_process, spec, protocol, stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "1"):
        monkeypatch.setenv("RANK", rank)
        assert evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "ranks") is None
    monkeypatch.setenv("RANK", "0")
    assert figures(evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "ranks")) == figures(
        one_process
    )


def test_rank_0_waits_for_the_others_and_says_when_they_fail(spec, protocol, stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(module.OvsdinoError, match="1 groups of other ranks are missing after"):
        evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "ranks")


def test_it_goes_on_where_it_was_stopped(one_process, spec, protocol, stripes, tmp_path, monkeypatch):
    """Stopped after the first group; the second run counts only the others."""
    counted = []
    real = module.count_group

    def until_stopped(run, group, segmenter):
        if threading.current_thread() and len(counted) == 1 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        counted.append(group)
        real(run, group, segmenter)

    stopped = []
    monkeypatch.setattr(module, "count_group", until_stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "stopped")
    steps = []
    done = lambda now, whole: steps.append((now, whole))  # noqa: E731
    again = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "stopped", done=done)
    assert counted == [0, 1, 2]
    assert steps == [(2, 3), (3, 3)]
    assert figures(again) == figures(one_process)
    evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "stopped")
    assert counted == [0, 1, 2]


def test_another_protocol_or_other_data_begin_anew(spec, protocol, stripes, tmp_path):
    out = tmp_path / "out"
    evaluate(spec, protocol, open_folder(stripes), out=out)
    evaluate(spec, replace(protocol, stride=8), open_folder(stripes), out=out)
    evaluate(spec, protocol, open_folder(stripes, ignore=254 + 1, reduce_zero_label=False), out=out)
    assert len(list((out / ".partial").iterdir())) == 2
    (stripes / "names.txt").write_text("background\nred\ngreen\n", encoding="utf-8")
    result, _ = evaluate(spec, replace(protocol, threshold=1.0), open_folder(stripes), out=out)
    assert len(list((out / ".partial").iterdir())) == 3
    assert result.threshold == 1.0
    assert result.classes[1].iou == result.classes[2].iou == 0  # nothing is as sure as that


def test_the_models_own_threshold_is_written_down(spec, protocol, stripes, tmp_path):
    (stripes / "names.txt").write_text("background\nred\ngreen\n", encoding="utf-8")
    result, _ = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "out")
    assert result.threshold == 0.5


def test_a_size_that_only_the_photo_tells_is_refused(spec, protocol, stripes, tmp_path, monkeypatch):
    dataset = open_folder(stripes)
    monkeypatch.setattr(type(dataset), "truth", lambda *_: np.zeros((2, 3), np.int32))
    with pytest.raises(DataError, match=r"0.png is 60x40 px, its labels are 3x2 px"):
        evaluate(spec, protocol, dataset, out=tmp_path / "out")


@pytest.mark.parametrize("synonyms", ["red", "red|green"])
def test_one_class_without_a_background_gets_every_pixel(spec, protocol, stripes, tmp_path, synonyms):
    """A lone class has a background in a run by default; the labels of a data set have none."""
    (stripes / "names.txt").write_text(f"{synonyms}\n", encoding="utf-8")
    for file in (stripes / "labels").iterdir():
        labels = np.asarray(Image.open(file))
        Image.fromarray(np.where(labels == 0, 0, 255).astype(np.uint8)).save(file)
    result, counts = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "out")
    assert counts.confusion.shape == (1, 1)
    assert counts.confusion[0, 0] > 0
    assert (result.miou, result.threshold) == (1.0, None)


def test_the_key_of_kept_counts_covers_every_file_of_the_program():
    """Counts of another version are not reused: the hash must see the files in the rooms as well."""
    files = {path.relative_to(path.parents[1]).as_posix() for path in module.code_files()}
    assert {"ovsdino_runtime/segmenter.py", "geometry/merge.py", "quality/labeler.py"} <= files


def test_photos_are_read_by_the_options_and_no_data_is_ignored(spec, protocol, stripes, tmp_path):
    """Bands in another order than RGB score as the plain photos do, and lie in a cache of their own."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    plain, _ = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "out")
    for photo in sorted((stripes / "images").iterdir()):
        pixels = np.asarray(Image.open(photo))[:, :, ::-1].copy()
        pixels[-4:] = 0
        tags = {"extratags": [(42113, "s", 0, "0", True)], "metadata": None}
        tifffile.imwrite(
            photo.with_suffix(".tif"), pixels, photometric="minisblack", planarconfig="contig", **tags
        )
        photo.unlink()
    options = PhotoOptions(bands=(3, 2, 1))
    read, counts = evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "out", photo_options=options)
    assert read.miou > 0.9
    labelled = sum(pixels for pixels in (c.pixels for c in plain.classes))
    assert counts.confusion.sum() == labelled - 11 * 4 * 60
    with pytest.raises(module.OvsdinoError, match="give --bands"):
        evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "out")


def test_damaged_counts_are_counted_again(one_process, spec, protocol, stripes, tmp_path, caplog):
    def again():
        return figures(evaluate(spec, protocol, open_folder(stripes), out=tmp_path / "one"))

    (folder,) = (tmp_path / "one" / ".partial").iterdir()
    file = folder / "00001.npz"
    whole = file.read_bytes()
    for place in range(40, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        assert again() == figures(one_process)
    file.write_bytes(whole[:50])
    assert again() == figures(one_process)
    assert file.read_bytes() == whole
    np.savez(file, pairs=[10**6], counts=[-1], boundary=[[0]])
    assert again() == figures(one_process)
    assert "damaged, its photos are counted again" in caplog.text
    text = folder / "text.npz"
    text.write_bytes(text.read_bytes()[:-30])
    assert again() == figures(one_process)
    assert "damaged, the classes are encoded again" in caplog.text
