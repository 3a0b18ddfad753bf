"""Label Studio's predictions and labelling interface, against its own converter where that is installed.

label-studio-sdk is not in the extra ``dev``: it brings 27 packages, and an older NumPy and OpenCV. A decoder
that reads bit by bit stands in for it.
"""

import json

import numpy as np
import pytest

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.integrations.brush_rle import MAX_RUN, RUN_BITS, encode_brush_rle
from ovsdino_runtime.integrations.label_studio import predict_regions, to_label_studio
from ovsdino_runtime.integrations.labeling_config import Control, read_labeling_config
from ovsdino_runtime.segmenter import Segmenter

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <BrushLabels name="brush" toName="photo">
    <Label value="red" background="#f00"/><Label value="Grün" predicted_values="green, lime"/>
    <Label value="Background"/>
  </BrushLabels>
  <View><PolygonLabels name="shape" toName="photo"><Label value="blue" alias="sea"/></PolygonLabels></View>
  <RectangleLabels name="boxes" toName="photo"><Label value="red"/></RectangleLabels>
  <Choices name="weather" toName="photo"><Choice value="rain"/></Choices>
</View>"""


@pytest.fixture
def segmenter(shared_bundle):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        yield segmenter


def decode_bit_by_bit(rle):
    """Read the stream as rle-pack's own decoder does, one bit after the other."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < count:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if run else [read(word) for _ in range(length)]
    assert len(bits) - place < 8  # nothing but the filling of the last byte is left
    return values


def masks():
    random = np.random.default_rng(0)
    yield from (np.zeros((1, 1), bool), np.ones((1, 1), bool), np.ones((200, 333), bool))
    yield random.random((40, 30)) < 0.5
    rows, columns = np.mgrid[:90, :120]
    yield (rows - 45) ** 2 + (columns - 60) ** 2 < 900
    for edge in [1 << bits for bits in RUN_BITS]:  # runs that just fit a field, and one more
        for length in (edge // 4, edge // 4 + 1):
            yield np.arange(length + 3)[None] < length


@pytest.mark.parametrize("mask", list(masks()))
def test_a_brush_mask_is_decoded_to_itself(mask):
    expected = np.repeat(255 * mask.ravel().astype(int), 4).tolist()
    assert decode_bit_by_bit(encode_brush_rle(mask)) == expected
    assert mask.size * 4 < 5 * MAX_RUN  # so that the loop ends in time


@pytest.mark.parametrize("mask", list(masks()))
def test_label_studio_decodes_a_brush_mask(mask):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    decoded = brush.decode_rle(encode_brush_rle(mask)).reshape(*mask.shape, 4)
    assert np.array_equal(decoded[..., 3], 255 * mask)


@pytest.mark.parametrize("background_classes", [None, "blue"])
def test_a_prediction_has_the_masks(segmenter, flag, background_classes):
    segmentation = segmenter(flag, "red, green", background_classes=background_classes)
    prediction = json.loads(json.dumps(to_label_studio(segmentation, from_name="brush", to_name="photo")))
    assert prediction["model_version"] == f"{segmentation.model}-{segmentation.model_digest[:12]}"
    names = [region["value"]["brushlabels"][0] for region in prediction["result"]]
    assert sorted(names) == ["green", "red"]
    for region, name in zip(prediction["result"], names, strict=True):
        assert (region["from_name"], region["to_name"], region["type"]) == ("brush", "photo", "brushlabels")
        size = region["original_height"], region["original_width"]
        decoded = np.reshape(decode_bit_by_bit(region["value"]["rle"]), (*size, 4))[..., 3]
        assert np.array_equal(decoded, 255 * segmentation.mask(name))


def test_the_labelling_interface_is_read():
    brush, shape, boxes = read_labeling_config(CONFIG)
    assert brush == Control(
        kind="brushlabels",
        name="brush",
        image="photo",
        field="picture",
        labels={"red": ("red",), "Grün": ("green", "lime")},
    )
    assert (shape.kind, shape.labels) == ("polygonlabels", {"sea": ("blue",)})
    assert (boxes.kind, boxes.labels) == ("rectanglelabels", {"red": ("red",)})


def test_label_studio_reads_the_same_labels():
    """Its own parser knows all labels, also that of the background."""
    parser = pytest.importorskip("label_studio_sdk._extensions.label_studio_tools.core.label_config")
    parsed = parser.parse_config(CONFIG)
    for control in read_labeling_config(CONFIG):
        theirs = parsed[control.name]
        assert theirs["type"].lower() == control.kind
        assert [label for label in theirs["labels"] if label != "Background"] == list(control.labels)
        assert theirs["inputs"][0]["value"] == control.field


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View", "not valid XML"),
        ("<View/>", "no labels to predict"),
        ('<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i"/></View>', "no labels"),
        ('<View><BrushLabels name="b" toName="i"><Label value="x"/></BrushLabels></View>', "no labels"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><View>&a;</View>', "declares entities"),
        (" " * 1_000_001, "too long"),
    ],
)
def test_what_is_no_labelling_interface_is_refused(config, said):
    with pytest.raises(ClassesError, match=said):
        read_labeling_config(config)


def test_polygons_and_boxes_are_percentages(segmenter, flag):
    from PIL import Image, ImageDraw

    _, shape, boxes = read_labeling_config(CONFIG)
    segmentation = segmenter(flag, ["blue"], background_classes="red, green")
    height, width = segmentation.labels.shape
    drawn = Image.new("1", (width, height))
    for region in predict_regions(segmentation, shape):
        assert region["value"]["polygonlabels"] == ["sea"]
        points = np.array(region["value"]["points"]) * [width / 100, height / 100]
        assert np.abs(points - points.round()).max() < 1e-6
        left, top = points.min(axis=0).round().astype(int)
        right, bottom = points.max(axis=0).round().astype(int)
        ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), fill=1)
    assert np.array_equal(np.asarray(drawn), segmentation.mask("blue"))  # a stripe of the flag

    segmentation = segmenter(flag, ["red"], background_classes="blue, green")
    [box] = [region["value"] for region in predict_regions(segmentation, boxes)]
    rows, columns = np.nonzero(segmentation.mask("red"))
    assert box["x"] * width / 100 == pytest.approx(columns.min())
    assert (box["x"] + box["width"]) * width / 100 == pytest.approx(columns.max() + 1)
    assert box["y"] * height / 100 == pytest.approx(rows.min())
    assert (box["y"] + box["height"]) * height / 100 == pytest.approx(rows.max() + 1)
    assert box["rectanglelabels"] == ["red"]
