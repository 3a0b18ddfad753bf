"""The one reader of labelled photos: what is found, and what is refused before anything is computed."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.base.photo_files import photo_size
from ovsdino_runtime.files.labeled_folder import IGNORED, open_labelled, reduced

LABELS = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    for place in ("images", "labels"):
        (tmp_path / place).mkdir()
    for number, suffix in enumerate((".png", ".JPG", ".tiff")):
        Image.new("RGB", (4, 2), (40 * number, 0, 0)).save(tmp_path / f"images/{number}{suffix}")
        Image.fromarray(LABELS).save(tmp_path / f"labels/{number}.png")
    (tmp_path / "images/notes.txt").write_text("no photo")
    (tmp_path / "names.txt").write_text("background\ncat|tom\nsky\n")
    return tmp_path


def test_photos_labels_and_words_come_together(folder):
    found = open_labelled(folder)
    assert [(photo.name, labels.name) for photo, labels in found.pairs] == [
        ("0.png", "0.png"),
        ("1.JPG", "1.png"),
        ("2.tiff", "2.png"),
    ]
    assert found.vocabulary.names == ("background", "cat", "sky")
    assert found.vocabulary.classes == (("cat", "tom"), ("sky",))
    assert found.name == folder.name
    photo, truth = found.read(2)
    assert photo.shape == (2, 4, 3)
    assert photo[0, 0, 0] == 80
    assert truth.tolist() == [[0, 1, 2, IGNORED], [2, 2, 1, 0]]


def test_labels_mean_what_the_caller_says(folder):
    Image.fromarray(np.array([[0, 1, 3, 9], [2, 2, 1, 0]], np.uint8)).save(folder / "labels/0.png")
    (folder / "labels/1.png").unlink()
    (folder / "labels/2.png").unlink()
    _, truth = open_labelled(folder, values=reduced(3, ignore=9)).read(0)
    assert truth.tolist() == [[IGNORED, 0, 2, IGNORED], [1, 1, 0, IGNORED]]


def test_a_photo_turned_by_exif_fits_its_upright_labels(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 4)).save(folder / "images/1.JPG", exif=exif)
    photo, truth = open_labelled(folder).read(1)
    assert photo.shape[:2] == truth.shape == (2, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "names.txt").unlink(), "names.txt: no such file; write one class a line"),
        (lambda f: (f / "names.txt").write_text("cat\ncat\n"), "'cat'"),
        (lambda f: (f / "images/1.JPG").unlink(), "1 of 3 photos are missing, the first is that of 1.png"),
        (lambda f: [p.unlink() for p in f.glob("labels/*")], r"no labels/\*.png in it; expected images/"),
        (lambda f: (f / "names.txt").write_text("cat\nsky\n"),
         r"0.png: label 2 is out of range: the 2 classes have labels 0 to 1, and 255 means nothing; choose"),
        (lambda f: (f / "labels/2.png").write_bytes(b"no"), "labels/2.png: broken label file"),
        (lambda f: (f / "images/0.png").write_bytes(b"no"), "images/0.png: not a photo"),
        (lambda f: Image.new("L", (9, 5)).save(f / "labels/1.png"),
         r"1.JPG is 4x2 px, its labels are 9x5 px; they must have the same size"),
        (lambda f: Image.new("RGB", (4, 2)).save(f / "labels/0.png"), "expected an indexed or grey PNG"),
        (lambda f: Image.new("1", (4, 2)).save(f / "labels/0.png"), "0.png: a PNG of 1 bit: whether"),
        (lambda f: Image.new("RGB", (4, 2)).save(f / "images/2.png"),
         "images/2.tiff and 2.png: two photos of one name"),
        (lambda f: Image.new("L", (4, 2)).save(f / "labels/2.PNG"), "two label files of one photo"),
        (lambda f: f.rename(f.with_name("away")), "no such folder; give the data set's folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(folder, spoil, message):
    spoil(folder)
    with pytest.raises(OvsdinoError, match=message):
        open_labelled(folder)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_labels_of_few_bits_are_the_file_s_own_values(folder, bits):
    samples = np.array([[0, 1, 2, 0], [2, 2, 1, 0]], np.uint8)
    packed = sum(
        samples[:, place :: 8 // bits].astype(int) << (8 - bits - bits * place) for place in range(8 // bits)
    )
    write_grey_png(folder / "labels/0.png", packed.astype(np.uint8).tobytes(), (4, 2), bits)
    assert open_labelled(folder).read(0)[1].tolist() == samples.tolist()


def write_grey_png(path, packed, size, bits):
    rows = [
        packed[start : start + len(packed) // size[1]]
        for start in range(0, len(packed), len(packed) // size[1])
    ]

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", *size, bits, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b""))


def test_what_operating_systems_leave_is_no_photo_and_no_label(folder):
    for place, suffix in (("images", "JPG"), ("labels", "png")):
        (folder / place / f"._1.{suffix}").write_bytes(b"\0\5\x16\7")
    (folder / "images/Thumbs.db").write_bytes(b"rubbish")
    (folder / "labels/1.png").rename(folder / "labels/1.PNG")
    assert [labels.name for _, labels in open_labelled(folder).pairs] == ["0.png", "1.PNG", "2.png"]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_a_turned_photo_of_any_format_has_the_size_of_its_pixels(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 4)).save(tmp_path / f"photo{suffix}", exif=exif)
    assert photo_size(tmp_path / f"photo{suffix}") == (4, 2)
    assert load_photo(tmp_path / f"photo{suffix}").shape == (2, 4, 3)
