"""Bands, bits and strict mean the same on the command line, in Python and in the evaluation's folders."""

from io import BytesIO

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime import PhotoOptions, Segmenter
from ovsdino_runtime.base.errors import OptionError, PhotoError, PhotoWarning
from ovsdino_runtime.cli import run
from ovsdino_runtime.files.labeled_folder import open_labelled
from ovsdino_runtime.geometry.metrics import IGNORED

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

COLOURS = "red, green, blue"
REVERSED = PhotoOptions(bands=(3, 2, 1))


@pytest.fixture
def segmenter(shared_bundle):
    with Segmenter.load(shared_bundle.path, threads=1) as opened:
        yield opened


@pytest.fixture
def scene(flag, tmp_path):
    """A raster whose bands are blue, green and red, and are not named."""
    tifffile.imwrite(
        tmp_path / "scene.tif", flag[:, :, ::-1], photometric="minisblack", planarconfig="contig"
    )
    return tmp_path / "scene.tif"


def test_every_form_of_a_file_takes_bands(segmenter, scene, flag):
    expected = segmenter(flag, COLOURS).labels
    with pytest.raises(PhotoError, match="nothing says which bands are red, green and blue; give --bands"):
        segmenter(scene, COLOURS)
    data = scene.read_bytes()
    for form in (scene, str(scene), data, BytesIO(data)):
        np.testing.assert_array_equal(
            segmenter(form, COLOURS, photo_options=REVERSED).labels, expected, err_msg=str(type(form))
        )
    features = segmenter.encode(scene, photo_options=REVERSED)
    np.testing.assert_array_equal(segmenter.segment(features, COLOURS).labels, expected)


def test_the_command_takes_them_as_python_does(segmenter, scene, shared_bundle, tmp_path):
    out = tmp_path / "out"
    arguments = [scene, "--classes", COLOURS, "--bands", "3,2,1", "--model", shared_bundle.path, "--out", out]
    done = CliRunner().invoke(run, [*map(str, arguments), "--threads", "1"])
    assert done.exit_code == 0, done.output
    written = np.asarray(Image.open(out / "scene_labels.png"))
    np.testing.assert_array_equal(written, segmenter(scene, COLOURS, photo_options=REVERSED).labels)


@pytest.mark.parametrize(
    "options",
    [
        {"bands": (0,)},
        {"bands": (1, 2)},
        {"bands": "1,2,3"},
        {"bands": (True, 2, 3)},
        {"bands": [1, 2, 3]},
        {"bits": 7},
        {"bits": True},
        {"bits": "12"},
        {"strict": 1},
    ],
)
def test_values_that_no_option_can_have(options):
    (name,) = options
    with pytest.raises(OptionError, match=rf"^{name} (are|is) .*: expected"):
        PhotoOptions(**options)


def test_options_of_a_file_are_refused_for_pixels(segmenter, flag):
    for pixels in (flag, Image.fromarray(flag)):
        with pytest.raises(OptionError, match="bands, bits and strict are for files, got"):
            segmenter(pixels, COLOURS, photo_options=PhotoOptions(bits=12))


def test_notes_and_pixels_without_data_reach_python(segmenter, tmp_path, flag):
    """As on the command line: what had to be decided is said, and no data is no class."""
    file = tmp_path / "flag.tif"
    stored = flag.astype(np.uint16) * 16
    stored[:10] = 0
    tifffile.imwrite(file, stored, photometric="rgb", extratags=[(42113, "s", 0, "0", True)], metadata=None)
    with pytest.warns(PhotoWarning, match="read as 12 bits"):
        result = segmenter(file, COLOURS)
    assert "read as 12 bits" in result.notes[0]
    assert result.notes[-1] == f"{10 * flag.shape[1]} pixels hold no data: their label is 255"
    assert (result.labels[:10] == 255).all()
    assert (result.labels[10:] < 3).all()
    with pytest.warns(PhotoWarning):
        features = segmenter.encode(file)
    again = segmenter.segment(features, COLOURS)
    np.testing.assert_array_equal(again.labels, result.labels)
    assert again.notes == result.notes


def test_a_labelled_folder_reads_its_photos_so(tmp_path, flag):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    stored = flag[:, :, ::-1].copy()
    stored[:10] = 0
    tags = [(42113, "s", 0, "0", True)]
    tifffile.imwrite(
        tmp_path / "images/a.tif", stored, photometric="minisblack", planarconfig="contig", extratags=tags
    )
    Image.fromarray(np.ones(flag.shape[:2], np.uint8)).save(tmp_path / "labels/a.png")
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    photo, truth = open_labelled(tmp_path, photo_options=REVERSED).read(0)
    np.testing.assert_array_equal(photo[10:], flag[10:])
    assert (truth[:10] == IGNORED).all()  # no data has no truth
    assert (truth[10:] == 1).all()
