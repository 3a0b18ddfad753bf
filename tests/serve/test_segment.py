"""What the server answers is what ovsdino-run writes; what it cannot answer it refuses in one line."""

import json
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import requests
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovsdino_runtime.base.errors import ClassesError, PhotoError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.cli import run
from ovsdino_runtime.geometry.rle import decode_rle
from ovsdino_runtime.serve.service import ServiceOptions
from ovsdino_runtime.serve.upload import UploadLimits, read_upload
from ovsdino_runtime.text.class_lists import read_classes
from tests.serve.running import ask, png, read_png, running

FLAG = np.repeat(np.eye(3, dtype=np.uint8) * 255, 50, axis=0)[None].repeat(90, axis=0)  # (90, 150, 3)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"classes": "red, green|lime, blue"}, ["--classes", "red, green|lime, blue"]),
        ({"classes": "red, white", "background": "0.9"}, ["--classes", "red, white", "--background", "0.9"]),
        (
            {"classes": "red", "background_classes": "blue,green"},
            ["--classes", "red", "--background-classes", "blue,green"],
        ),
        (
            {"classes": "red", "background_classes": "surroundings"},
            ["--classes", "red", "--background-classes", "surroundings"],
        ),
        ({"vocabulary": "voc21"}, ["--vocabulary", "voc21"]),
        (
            {"vocabulary": "voc21", "background": "none"},
            ["--vocabulary", "voc21", "--background", "none"],
        ),
    ],
)
def test_labels_are_those_of_the_command(address, tiny, tmp_path, fields, options):
    (tmp_path / "flag.png").write_bytes(png(FLAG))
    out = tmp_path / "out"
    arguments = [str(tmp_path / "flag.png"), "--model", str(tiny), "--out", str(out), *options]
    done = CliRunner().invoke(run, [*arguments, "--save", "labels,json,rle"])
    assert done.exit_code == 0, done.output
    written, described = Image.open(out / "flag_labels.png"), json.loads((out / "flag.json").read_text())
    labels, names = read_png(answer := ask(address, png(FLAG), **fields))
    assert np.array_equal(labels, np.asarray(written))
    assert Image.open(BytesIO(answer.content)).getpalette() == written.getpalette()
    assert names == described["classes"]
    record = ask(address, png(FLAG), format="rle", **fields).json()
    lines = [json.loads(line) for line in (out / "flag_rle.jsonl").read_text().splitlines()]
    assert [region["segmentation"] for region in record["regions"]] == [one["segmentation"] for one in lines]
    assert [region["score"] for region in record["regions"]] == [one["score"] for one in lines]
    assert record["background"] == described["background"]
    assert [(one["name"], one["area"]) for one in record["regions"]] == [
        (one["name"], one["pixels"]) for one in described["regions"] if one["pixels"]
    ]
    assert record["not_found"] == [one["name"] for one in described["regions"] if not one["pixels"]]
    assert record["model_digest"] == described["model_digest"]


def test_fields_say_how_a_photo_is_read_and_notes_what_was_decided(address):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    tags = {"extratags": [(42113, "s", 0, "0", True)], "metadata": None}
    wide = FLAG[:, :, ::-1].astype(np.uint16) * 16
    wide[:9] = 0
    tifffile.imwrite(file := BytesIO(), wide, photometric="minisblack", planarconfig="contig", **tags)
    fields = {"classes": "red, green, blue", "format": "rle"}
    refused = ask(address, file.getvalue(), **fields)
    assert (refused.status_code, "give --bands" in refused.json()["error"]) == (422, True)
    answer = ask(address, file.getvalue(), bands="3, 2,1", **fields).json()
    guess, missing = answer["notes"]
    assert "read as 12 bits" in guess
    assert missing == f"{9 * 150} pixels hold no data: their label is 255"
    plain = ask(address, png(FLAG), **fields).json()
    assert plain["notes"] == []
    assert sum(region["area"] for region in answer["regions"]) == 81 * 150
    told = ask(address, file.getvalue(), bands="3,2,1", bits="12", **fields).json()
    assert told["notes"] == [missing]
    labels, _ = read_png(ask(address, file.getvalue(), bands="3,2,1", classes="red, green, blue"))
    assert (labels[:9] == 255).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bands": "red"}, "bands 'red' are no list of numbers such as 3,2,1"),
        ({"bands": "1,2"}, "expected one (grey) or three"),
        ({"bands": "1"}, "bands can be chosen of TIFFs only; leave out the bands"),
        ({"bits": "12.5"}, "bits are '12.5': expected 8..32"),
        ({"bits": "99"}, "bits are 99: expected 8..32"),
        ({"strict": "perhaps"}, "strict: Input should be a valid boolean"),
    ],
)
def test_fields_on_reading_that_cannot_be_are_refused(address, fields, message):
    answer = ask(address, png(FLAG), classes="red", **fields)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


def test_a_cut_jpeg_is_read_with_a_note_or_refused(address):
    Image.fromarray(FLAG).save(file := BytesIO(), "JPEG")
    cut = file.getvalue()[:-2]
    answer = ask(address, cut, classes="red, green, blue", format="rle")
    assert answer.json()["notes"] == ["its last bytes are missing: read up to there"]
    refused = ask(address, cut, classes="red, green, blue", strict="true")
    assert (refused.status_code, "truncated" in refused.json()["error"]) == (422, True)


def test_masks_fill_the_photo(address):
    record = ask(address, png(FLAG), classes="red, green, blue", format="rle").json()
    assert (record["height"], record["width"]) == (90, 150)
    covered = np.zeros((90, 150), int)
    for region in record["regions"]:
        mask = decode_rle(region["segmentation"]["counts"], *region["segmentation"]["size"])
        assert mask.sum() == region["area"]
        left, top, width, height = region["bbox"]
        assert mask[top : top + height, left : left + width].sum() == region["area"]
        covered += mask
    assert (covered == 1).all()


def test_how_long_each_stage_took_is_in_the_header(address):
    stages = ask(address, png(FLAG), classes="red, blue").headers["server-timing"]
    assert [one.partition(";")[0] for one in stages.split(", ")] == [
        *("words", "wait", "decode", "resize", "vision", "text", "merge")
    ]


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")


@FEW
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 99),
    words=st.lists(st.sampled_from(["red", "green", "blue", "white", "black"]), min_size=2, unique=True),
)
def test_photos_of_any_size_and_kind(address, reference, tmp_path_factory, size, mode, seed, words):
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(colours).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    file = tmp_path_factory.mktemp("photo") / ("photo.tif" if mode == "CMYK" else "photo.png")
    image.save(file)
    expected = reference(load_photo(file), words).labels
    labels, names = read_png(ask(address, file.read_bytes(), classes=", ".join(words)))
    assert names == words
    assert np.array_equal(labels, expected)


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=8
)


@FEW
@given(names=NAMES)
def test_names_of_any_characters(address, reference, names):
    """An answer has the very names; where they make no vocabulary it says why, in one line."""
    answer = ask(address, png(FLAG), classes=(text := ",".join(names)))
    try:
        expected = reference(FLAG, read_classes(text, files=False)).classes
    except ClassesError as error:
        expect_refusal(answer, error, 422)
        return
    assert tuple(read_png(answer)[1]) == expected


def test_more_than_256_classes_are_16_bit(address, reference):
    words = ["red", *(f"word{number}" for number in range(900)), "green", "blue"]
    labels, names = read_png(ask(address, png(FLAG), classes="\n".join(words)))
    assert labels.max() > 256
    assert names == words
    assert np.array_equal(labels, reference(FLAG, words).labels)


@FEW
@given(data=st.binary(max_size=64), cut=st.floats(0, 0.99), start=st.sampled_from(["png", "jpeg", "none"]))
def test_broken_photos_are_refused(address, data, cut, start):
    Image.fromarray(FLAG).save(file := BytesIO(), "JPEG" if start == "jpeg" else "PNG")
    whole = file.getvalue()
    broken = (b"" if start == "none" else whole[: int(cut * len(whole))]) + data
    answer = ask(address, broken, classes="red")
    try:
        read_upload(broken, UploadLimits())
    except PhotoError as error:
        expect_refusal(answer, error, 413, 415, 422)
        return
    assert answer.status_code == 200  # all its pixels are there


def expect_refusal(answer, error, *statuses):
    assert answer.status_code in statuses
    assert answer.json() == {"error": " ".join(str(error).split())}


def png_header(width, height) -> bytes:
    """The first bytes of a PNG that says how large it is, and a little of its pixels."""
    parts = [
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(9999))),
    ]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [5001, 60000, 2**31 - 1])
def test_a_bomb_is_not_decoded(address, side):
    answer = ask(address, png_header(side, side), classes="red")
    assert answer.status_code == 413
    assert "megapixels; scale the photo down first" in answer.json()["error"]


def test_too_many_bytes_are_not_read(segmenter):
    options = ServiceOptions(limits=UploadLimits(megabytes=0.001))
    with running(segmenter, options) as address:
        assert ask(address, b"x" * 1500, classes="red").status_code == 413  # the photo itself
        boundary = {"Content-Type": "multipart/form-data; boundary=b"}
        form = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n' + b"x" * 4_000_000
        for body in (form, iter([form])):  # with its length, and without
            answer = requests.post(f"{address}/segment", data=body, headers=boundary, timeout=20)
            assert answer.status_code == 413
            assert answer.json()["error"].startswith("the request is too large: expected a photo of at most")


def test_who_asks_before_sending_is_refused_at_once(address):
    host, port = address.removeprefix("http://").split(":")
    head = "POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(f"{head}Content-Length: 900000000\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_words_are_never_read_from_the_servers_files(address, tmp_path):
    (tmp_path / "words").write_text("secret\n")
    for field in ("classes", "background_classes"):
        answer = ask(address, png(FLAG), **{"classes": "red", field: f"@{tmp_path / 'words'}"})
        assert answer.status_code == 422
        assert "files are not read here; send the names" in answer.json()["error"]


def test_json_arrays_are_read_as_such(address):
    _, names = read_png(ask(address, png(FLAG), classes='["red", ["blue", "navy"], "green"]'))
    assert names == ["red", "blue", "green"]
    answer = ask(address, png(FLAG), classes='["red", 3]')
    assert (answer.status_code, answer.json()) == (
        422,
        {"error": "class 2 is 3: expected text, such as 'cat' or 'car|automobile'"},
    )


def test_a_field_that_is_sent_twice_is_refused(address):
    files = [
        ("photo", ("a.png", png(FLAG), "image/png")),
        ("classes", (None, "red")),
        ("classes", (None, "blue")),
    ]
    answer = requests.post(f"{address}/segment", files=files, timeout=20)
    assert answer.status_code == 422
    assert answer.json() == {"error": "field 'classes' occurs 2 times; send it once"}


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({}, 422, "give either classes, such as 'cat, grass, sky', or a vocabulary, such as ade150"),
        ({"classes": "a", "vocabulary": "voc21"}, 422, "give either classes"),
        ({"classes": "cat, Cat"}, 422, "class 2 has the name of class 1: 'Cat'; rename one"),
        ({"classes": "cat,,dog"}, 422, "class 2 has an empty name"),
        ({"classes": ",".join(map(str, range(3000)))}, 422, "got 3000 classes: expected at most 2000"),
        ({"classes": "a", "background": "1.01"}, 422, "background '1.01' is neither 'none' nor a number"),
        ({"classes": "a", "background": "nan"}, 422, "background 'nan' is neither"),
        (
            {"classes": "a", "background": "none", "background_classes": "b"},
            422,
            "background classes belong to the background",
        ),
        ({"classes": "a", "background_classes": "@/etc/passwd, "}, 422, "files are not read here"),
        ({"classes": "background", "background": "0.5"}, 422, "the only class is 'background'"),
        ({"vocabulary": "../voc21"}, 422, "unknown vocabulary '../voc21'"),
        (
            {"classes": "a", "format": "gif"},
            422,
            "format: Input should be 'png', 'overlay', 'rle' or 'base64'",
        ),
    ],
)
def test_what_is_wrong_with_the_words(address, fields, status, error):
    answer = ask(address, png(FLAG), **fields)
    assert answer.status_code == status
    assert error in answer.json()["error"]


def test_what_is_wrong_with_the_request(address):
    url = f"{address}/segment"
    assert requests.post(url, json={"classes": "a"}, timeout=20).status_code == 415
    assert requests.post(url, files={"classes": (None, "a")}, timeout=20).json() == {
        "error": "give either a photo, as the field `photo`, or its address, as `url`"
    }
    broken = {"Content-Type": "multipart/form-data"}
    assert requests.post(url, data=b"--", headers=broken, timeout=20).status_code == 400
    answer = requests.get(url, timeout=20)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert requests.get(f"{address}/nothing", timeout=20).status_code == 404
    postscript = ask(address, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", classes="red")
    assert postscript.status_code == 415


def test_many_at_once_get_their_own_answers(address, reference):
    words = ["red, green", "green, blue", "blue, red", "white, black, red", "black|red, yellow"]
    photos = [np.roll(FLAG, 20 * turn, axis=1) for turn in range(4)]
    cases = [(photo, text) for photo in photos for text in words]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda case: ask(address, png(case[0]), classes=case[1]), cases))
    for (photo, text), answer in zip(cases, answers, strict=True):
        assert np.array_equal(read_png(answer)[0], reference(photo, text).labels)
