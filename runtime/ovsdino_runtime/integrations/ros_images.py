"""Convert between ROS image messages and arrays; needs no ROS."""

import io
import sys
from typing import Any

import numpy as np

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.image_input import as_photo
from ovsdino_runtime.base.segmentation import Segmentation, no_data_label
from ovsdino_runtime.geometry.types import Labels, Photo

# sensor_msgs/image_encodings.hpp: name -> (bytes a value, channels of red, green and blue, channels in all).
ENCODINGS = {
    "rgb8": (1, (0, 1, 2), 3),
    "bgr8": (1, (2, 1, 0), 3),
    "rgba8": (1, (0, 1, 2), 4),
    "bgra8": (1, (2, 1, 0), 4),
    "mono8": (1, (0, 0, 0), 1),
    "8UC1": (1, (0, 0, 0), 1),
    "rgb16": (2, (0, 1, 2), 3),
    "bgr16": (2, (2, 1, 0), 3),
    "rgba16": (2, (0, 1, 2), 4),
    "bgra16": (2, (2, 1, 0), 4),
    "mono16": (2, (0, 0, 0), 1),
}


def photo_of_message(message: Any) -> Photo:  # noqa: ANN401 - of rclpy or of rosbags
    """Read the pixels of a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Args:
        message: a message of rclpy or rosbags. Of 16-bit values the upper byte is kept.

    Returns:
        (H, W, 3) RGB.

    Raises:
        PhotoError: the encoding is not supported, or the data does not match the size.
    """
    if hasattr(message, "format"):
        return as_photo(io.BytesIO(bytes(message.data)))
    if message.encoding not in ENCODINGS:
        raise PhotoError(
            f"image encoding {message.encoding!r} is none of {', '.join(ENCODINGS)}; convert the topic, "
            "for example with image_proc"
        )
    width_bytes, rgb, channels = ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels * width_bytes
    data = np.frombuffer(bytes(message.data), np.uint8)
    if not height or not width or step < row or data.size != height * step:
        raise PhotoError(
            f"a {width}x{height} image in {message.encoding}, {step} bytes a row: got {data.size} bytes, "
            f"expected {height * max(step, row)}"
        )
    values = data.reshape(height, step)[:, :row].reshape(height, width, channels, width_bytes)
    high = 0 if message.is_bigendian or width_bytes == 1 else 1
    return np.ascontiguousarray(values[:, :, list(rgb), high])


def label_pixels(segmentation: Segmentation) -> Labels:
    """Return the labels in the type of a label topic: uint8, or uint16 beyond 255 classes.

    The largest value of either type is no class: `vision_msgs/LabelInfo` reserves it for unlabelled pixels.

    Shape: (H, W).
    """
    small = no_data_label(len(segmentation.classes)) == 255
    return segmentation.labels.astype(np.uint8 if small else np.uint16)


def image_fields(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the fields of a ``sensor_msgs/Image``, without its header.

    Args:
        pixels: (H, W, 3) uint8 for ``rgb8``; (H, W) uint8 or uint16 for ``mono8`` or ``mono16``.
    """
    encoding = "rgb8" if pixels.ndim == 3 else f"mono{8 * pixels.itemsize}"
    data = np.ascontiguousarray(pixels)
    return {
        "height": data.shape[0],
        "width": data.shape[1],
        "encoding": encoding,
        "is_bigendian": int(sys.byteorder == "big"),
        "step": data.strides[0],
        "data": data.reshape(-1).view(np.uint8),
    }
