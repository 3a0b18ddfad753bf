"""The ROS 2 node against a small stand-in of rclpy; the messages have the real layouts, of rosbags.

No index has rclpy. What is not tested here: discovery, executors, quality of service, and `colcon build`.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ovsdino_runtime.integrations.ros_bags import LABEL_INFO
from ovsdino_runtime.integrations.ros_images import image_fields
from ovsdino_runtime.segmenter import Segmenter

typesys = pytest.importorskip("rosbags.typesys")
NODE = Path(__file__).resolve().parents[2] / "examples/ros2/ovsdino_ros/ovsdino_ros/segmentation_node.py"
STORE = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
for name, text in LABEL_INFO.items():
    STORE.register(typesys.get_types_from_msg(text, name))


class StandIn:
    """As much of rclpy's Node as the node uses; what is published is serialised, as a real one would."""

    parameters: dict[str, object]

    def __init__(self, name):
        self.name, self.published, self.subscribed, self.errors = name, [], {}, []

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind, topic, _quality):
        def publish(message):
            fields = {**vars(message)}
            if isinstance(fields.get("data"), bytes):
                fields["data"] = np.frombuffer(fields["data"], np.uint8)
            message = kind(**{key: value for key, value in fields.items() if key != "__msgtype__"})
            data = STORE.serialize_cdr(message, kind.__msgtype__)
            self.published.append((topic, STORE.deserialize_cdr(data, kind.__msgtype__)))

        return SimpleNamespace(publish=publish)

    def create_subscription(self, _kind, topic, callback, _quality):
        self.subscribed[topic] = callback

    def add_on_set_parameters_callback(self, callback):
        self.asked = callback

    def get_logger(self):
        return SimpleNamespace(error=self.errors.append)


@pytest.fixture
def node(monkeypatch, shared_bundle):
    def module(name, **members):
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    def message(kind):
        return STORE.types[kind]

    module("rclpy")
    module("rclpy.node", Node=StandIn)
    module(
        "rclpy.qos",
        DurabilityPolicy=SimpleNamespace(TRANSIENT_LOCAL=1),
        QoSProfile=SimpleNamespace,
        qos_profile_sensor_data=None,
    )
    for package, names in {
        "sensor_msgs": ["Image"],
        "std_msgs": ["String"],
        "vision_msgs": ["LabelInfo", "VisionClass"],
        "rcl_interfaces": ["SetParametersResult"],
    }.items():
        module(package)
        module(f"{package}.msg", **{name: message(f"{package}/msg/{name}") for name in names})
    StandIn.parameters = {"model": str(shared_bundle.path), "classes": "red, green, blue"}
    spec = importlib.util.spec_from_file_location("segmentation_node", NODE)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded.SegmentationNode()


def picture(photo):
    time = STORE.types["builtin_interfaces/msg/Time"](sec=17, nanosec=5)
    header = STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="front")
    return STORE.types["sensor_msgs/msg/Image"](header=header, **image_fields(photo))


def test_a_picture_becomes_labels_a_picture_and_names(node, flag, shared_bundle):
    node.subscribed["image"](picture(flag))
    published = dict(node.published)
    assert list(published) == ["~/label_info", "~/labels", "~/overlay"]
    labels = published["~/labels"]
    assert (labels.header.stamp.sec, labels.header.stamp.nanosec, labels.header.frame_id) == (17, 5, "front")
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        expected = segmenter(flag, "red, green, blue").labels
    assert np.array_equal(labels.data.reshape(labels.height, labels.step), expected)
    assert published["~/overlay"].encoding == "rgb8"
    names = [(each.class_id, each.class_name) for each in published["~/label_info"].class_map]
    assert names == [(0, "red"), (1, "green"), (2, "blue")]
    node.subscribed["image"](picture(flag))
    assert [topic for topic, _ in node.published[3:]] == ["~/labels", "~/overlay"]  # the names are the same


def test_words_change_by_topic_and_by_parameter(node, flag):
    String = STORE.types["std_msgs/msg/String"]  # noqa: N806 - a class
    for change, names in (
        (lambda: node.subscribed["~/classes"](String(data="white, red")), ["white", "red"]),
        (lambda: node.asked([SimpleNamespace(name="classes", value="blue, black")]), ["blue", "black"]),
    ):
        change()
        node.published.clear()
        node.subscribed["image"](picture(flag))
        assert [each.class_name for each in dict(node.published)["~/label_info"].class_map] == names


def test_what_is_not_valid_is_refused_and_the_old_words_stay(node, flag):
    node.subscribed["~/classes"](STORE.types["std_msgs/msg/String"](data="red, red"))
    assert "the old classes stay" in node.errors[0]
    assert not node.asked([SimpleNamespace(name="classes", value="red, red")]).successful
    assert not node.asked([SimpleNamespace(name="model", value="other")]).successful
    assert node.asked([SimpleNamespace(name="use_sim_time", value=True)]).successful
    broken = picture(flag)
    node.subscribed["image"](
        STORE.types["sensor_msgs/msg/Image"](**vars(broken) | {"encoding": "bayer_rggb8"})
    )
    assert "bayer_rggb8" in node.errors[1]
    node.subscribed["image"](broken)
    assert [each.class_name for each in dict(node.published)["~/label_info"].class_map] == [
        "red",
        "green",
        "blue",
    ]
