"""Segment an image topic: labels, a coloured picture and the class names come out.

The classes are the parameter ``classes``. `ros2 param set` and messages on ``~/classes`` change them while
the node runs. Classes that do not form a valid vocabulary are refused, and the old ones stay.
"""

from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import LabelInfo, VisionClass

from ovsdino_runtime import Segmenter
from ovsdino_runtime.base.errors import ClassesError, PhotoError
from ovsdino_runtime.base.overlay import draw_frame
from ovsdino_runtime.integrations.ros_images import image_fields, label_pixels, photo_of_message
from ovsdino_runtime.text.class_lists import choose_classes


class SegmentationNode(Node):
    """Subscribes to ``image``; publishes ``~/labels``, ``~/overlay`` and ``~/label_info``."""

    def __init__(self) -> None:
        super().__init__("ovsdino")
        model = self.declare_parameter("model", "nano").value
        classes = self.declare_parameter("classes", "floor, wall, person, chair").value
        self._vocabulary = choose_classes(classes)
        self._published: tuple[str, ...] = ()
        self._segmenter = Segmenter.load(model)
        self._labels = self.create_publisher(Image, "~/labels", qos_profile_sensor_data)
        self._overlay = self.create_publisher(Image, "~/overlay", qos_profile_sensor_data)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._label_info = self.create_publisher(LabelInfo, "~/label_info", latched)
        self.create_subscription(Image, "image", self.segment, qos_profile_sensor_data)
        self.create_subscription(String, "~/classes", self.hear, 1)
        self.add_on_set_parameters_callback(self.set_parameters_asked)

    def segment(self, message: Any) -> None:  # noqa: ANN401 - ROS's messages have no types
        """Segment a picture and publish the results with its header."""
        try:
            photo = photo_of_message(message)
        except PhotoError as error:
            self.get_logger().error(str(error))
            return
        segmentation = self._segmenter(photo, self._vocabulary)
        if segmentation.classes != self._published:
            self._published = segmentation.classes
            names = enumerate(segmentation.classes)
            entries = [VisionClass(class_id=label, class_name=name) for label, name in names]
            threshold = float(segmentation.background or 0.0)
            self._label_info.publish(LabelInfo(header=message.header, class_map=entries, threshold=threshold))
        self._labels.publish(_image(message.header, label_pixels(segmentation)))
        self._overlay.publish(_image(message.header, np.asarray(draw_frame(segmentation))))

    def hear(self, message: Any) -> None:  # noqa: ANN401
        """Change the classes to the words of a message."""
        try:
            self._vocabulary = choose_classes(message.data)
        except ClassesError as error:
            self.get_logger().error(f"{error}; the old classes stay")

    def set_parameters_asked(self, parameters: list[Any]) -> Any:  # noqa: ANN401
        """Accept or refuse a change of parameters; the model cannot be changed while the node runs."""
        for parameter in parameters:
            if parameter.name == "model":
                return SetParametersResult(successful=False, reason="start the node again for another model")
            if parameter.name == "classes":
                try:
                    self._vocabulary = choose_classes(parameter.value)
                except ClassesError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True, reason="")


def _image(header: Any, pixels: Any) -> Any:  # noqa: ANN401
    fields = image_fields(pixels)
    return Image(header=header, **fields | {"data": fields["data"].tobytes()})


def main() -> None:
    """Run the node until it is ended."""
    rclpy.init()
    node = SegmentationNode()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()
