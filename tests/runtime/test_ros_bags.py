"""ROS bags in and out: written and read by rosbags, which shares no code with ROS."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.cli import run
from ovsdino_runtime.integrations.ros_bags import LABEL_INFO
from ovsdino_runtime.integrations.ros_images import image_fields, label_pixels, photo_of_message
from ovsdino_runtime.segmenter import Segmenter

rosbag2 = pytest.importorskip("rosbags.rosbag2")
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402

TOPIC = "/camera/image_raw"
STORE = get_typestore(Stores.ROS2_HUMBLE)
START = 1_700_000_000_000_000_000  # [ns]


def header(number):
    time = STORE.types["builtin_interfaces/msg/Time"](sec=1700 + number, nanosec=7 * number)
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="front")


def write_bag(path, photos, *, plugin, kind="sensor_msgs/msg/Image"):
    """Record photos 0.1 s apart, between messages of another topic."""
    with rosbag2.Writer(path, version=8, storage_plugin=plugin) as writer:
        images = writer.add_connection(TOPIC, kind, typestore=STORE)
        other = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=STORE)
        for number, photo in enumerate(photos):
            stamp = START + number * 100_000_000
            text = STORE.types["std_msgs/msg/String"](data="hello")
            writer.write(other, stamp, STORE.serialize_cdr(text, "std_msgs/msg/String"))
            if kind.endswith("CompressedImage"):
                file = io.BytesIO()
                Image.fromarray(photo).save(file, "PNG")
                fields = {"format": "png", "data": np.frombuffer(file.getvalue(), np.uint8)}
            else:
                fields = image_fields(photo) if isinstance(photo, np.ndarray) else photo
            message = STORE.types[kind](header=header(number), **fields)
            writer.write(images, stamp + 1, STORE.serialize_cdr(message, kind))
    return path


def read_topic(path, topic):
    with AnyReader([path]) as reader:
        chosen = [each for each in reader.connections if each.topic == topic]
        return [
            (time, reader.deserialize(data, each.msgtype)) for each, time, data in reader.messages(chosen)
        ]


@pytest.fixture
def invoke(shared_bundle, tmp_path):
    def invoke(*arguments):
        options = ["--classes", "red, green, blue", "--model", str(shared_bundle.path), "--threads", "1"]
        return CliRunner().invoke(run, [*map(str, arguments), *options, "--out", str(tmp_path / "out")])

    return invoke


@pytest.fixture
def photos(flag):
    return [flag, np.ascontiguousarray(flag[::-1]), np.ascontiguousarray(flag[:, ::-1])]


@pytest.mark.parametrize("plugin", [rosbag2.StoragePlugin.MCAP, rosbag2.StoragePlugin.SQLITE3])
@pytest.mark.parametrize("kind", ["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"])
def test_a_bag_becomes_a_bag_of_labels(invoke, photos, shared_bundle, tmp_path, plugin, kind):
    bag = write_bag(tmp_path / "drive", photos, plugin=plugin, kind=kind)
    done = invoke(bag, "--topic", TOPIC)
    assert done.exit_code == 0, done.output
    result = tmp_path / "out" / "drive_labels"
    labels = read_topic(result, f"{TOPIC}/labels")
    assert [time for time, _ in labels] == [START + 1 + number * 100_000_000 for number in range(3)]
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        for number, ((_, message), photo) in enumerate(zip(labels, photos, strict=True)):
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1700 + number, 7 * number)
            assert (message.header.frame_id, message.encoding) == ("front", "mono8")
            pixels = message.data.reshape(message.height, message.step)
            assert np.array_equal(pixels, segmenter(photo, "red, green, blue").labels)
    overlays = read_topic(result, f"{TOPIC}/overlay")
    assert [message.encoding for _, message in overlays] == ["rgb8"] * 3
    [(_, info)] = read_topic(result, f"{TOPIC}/label_info")
    assert [(each.class_id, each.class_name) for each in info.class_map] == list(
        enumerate(["red", "green", "blue"])
    )


# What rosidl generates from vision_msgs 4 for these types; it depends on each field's name, type and order.
TYPE_HASHES = {
    "vision_msgs/msg/VisionClass": "RIHS01_1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
    "vision_msgs/msg/LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
}


def test_label_info_is_laid_out_as_in_ros():
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in LABEL_INFO.items():
        store.register(get_types_from_msg(text, name))
    assert {name: store.hash_rihs01(name) for name in LABEL_INFO} == TYPE_HASHES


@pytest.mark.parametrize(("count", "kind"), [(3, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_the_largest_label_is_kept_free(shared_bundle, flag, count, kind):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        segmentation = segmenter(flag, "red, green, blue")
    segmentation = replace(segmentation, classes=tuple(map(str, range(count))))
    labels = label_pixels(segmentation)
    assert labels.dtype == kind
    assert np.array_equal(labels, segmentation.labels)
    assert count - 1 < np.iinfo(kind).max


def test_a_single_mcap_file_is_a_bag(invoke, photos, tmp_path):
    folder = write_bag(tmp_path / "whole", photos, plugin=rosbag2.StoragePlugin.MCAP)
    [file] = folder.glob("*.mcap")
    file = file.rename(tmp_path / "drive.mcap")
    assert invoke(file, "--topic", TOPIC).exit_code == 0
    assert len(read_topic(tmp_path / "out" / "drive_labels", f"{TOPIC}/labels")) == 3


def test_a_broken_message_is_named_and_the_others_are_kept(invoke, photos, tmp_path):
    broken = image_fields(photos[1]) | {"encoding": "bayer_rggb8"}
    photos = [photos[0], broken, photos[2]]
    bag = write_bag(tmp_path / "drive", photos, plugin=rosbag2.StoragePlugin.MCAP)
    done = invoke(bag, "--topic", TOPIC)
    assert "message 1 of /camera/image_raw: image encoding 'bayer_rggb8'" in done.output
    labels = read_topic(tmp_path / "out" / "drive_labels", f"{TOPIC}/labels")
    assert [message.header.stamp.sec for _, message in labels] == [1700, 1702]


def test_what_cannot_be_read_is_refused_in_one_line(invoke, photos, tmp_path):
    bag = write_bag(tmp_path / "drive", photos[:1], plugin=rosbag2.StoragePlugin.MCAP)
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(b"\x89MCAP0\r\n and no more")
    text = tmp_path / "notes.txt"
    text.write_text("no bag", encoding="utf-8")
    cases = [
        ((bag, "--topic", "/rear"), "topics with images: /camera/image_raw"),
        ((torn, "--topic", TOPIC), "cannot be read as a bag"),
        ((text, "--topic", TOPIC), "not a bag"),
        ((tmp_path / "none.mcap", "--topic", TOPIC), "no such bag"),
    ]
    for arguments, said in cases:
        done = invoke(*arguments)
        assert done.exit_code == 2, done.output
        assert said in done.output
        assert "Traceback" not in done.output
        assert not (tmp_path / "out").exists()
    assert invoke(bag, "--topic", TOPIC).exit_code == 0
    again = invoke(bag, "--topic", TOPIC)
    assert again.exit_code == 2
    assert "exists already" in again.output


def message(pixels, encoding, *, padding=0, big=False):
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    fields = {"height": height, "width": width, "step": rows.shape[1], "data": rows.tobytes()}
    return SimpleNamespace(encoding=encoding, is_bigendian=int(big), **fields)


def test_encodings_give_the_same_picture(flag):
    alpha = np.full((*flag.shape[:2], 1), 7, np.uint8)
    wide = flag.astype(np.uint16) * 257
    grey = flag[..., 0]
    assert np.array_equal(photo_of_message(message(flag, "rgb8", padding=5)), flag)
    assert np.array_equal(photo_of_message(message(flag[..., ::-1], "bgr8")), flag)
    assert np.array_equal(photo_of_message(message(np.concatenate([flag, alpha], 2), "rgba8")), flag)
    assert np.array_equal(
        photo_of_message(message(np.concatenate([flag[..., ::-1], alpha], 2), "bgra8", padding=3)), flag
    )
    assert np.array_equal(photo_of_message(message(wide.astype("<u2"), "rgb16")), flag)
    assert np.array_equal(photo_of_message(message(wide.astype(">u2"), "rgb16", big=True)), flag)
    assert np.array_equal(photo_of_message(message(grey, "mono8")), np.repeat(grey[..., None], 3, axis=2))
    with pytest.raises(PhotoError, match="got 10 bytes"):
        photo_of_message(SimpleNamespace(**vars(message(flag, "rgb8")) | {"data": bytes(10)}))


def test_without_rosbags_the_extra_is_named(invoke, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "rosbags.highlevel", None)
    done = invoke(Path("drive.mcap"), "--topic", TOPIC)
    assert done.exit_code == 2
    assert "pip install '.[ros]'" in done.output
