"""Read ROS bags and write ROS 2 bags with rosbags (extra ``ros``); needs no ROS installation."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_runtime.base.errors import OutputError, PhotoError
from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.overlay import draw_frame
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.integrations.ros_images import image_fields, label_pixels, photo_of_message
from ovsdino_runtime.stream import Result

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
LABEL_INFO = {  # definitions of vision_msgs 4 (ROS 2 Humble and later), which rosbags does not contain
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\n"
    "float32 threshold\n",
}


@dataclass(frozen=True, eq=False)
class BagFrame(Frame):
    """A picture from a bag, with the time and frame of its message."""

    recorded: int = 0  # [ns] when the message was recorded
    header: Any = None  # std_msgs/Header: stamp and frame_id


def import_rosbags() -> None:
    """Check that rosbags is installed.

    Raises:
        PhotoError: rosbags is not installed.
    """
    try:
        import rosbags.highlevel  # noqa: F401
    except ImportError as error:
        raise PhotoError(f"bags need rosbags ({error}); {install_command('ros')}") from error


def find_bags(paths: Sequence[str]) -> list[Source]:
    """Return bags as sources: ``.mcap``, ``.db3`` and ``.bag`` files, or folders of ROS 2 bags.

    Raises:
        PhotoError: a path does not exist, or is not a bag.
    """
    for path in map(Path, paths):
        if not path.exists():
            raise PhotoError(f"{path}: no such bag")
        is_bag = (
            (path / "metadata.yaml").is_file() if path.is_dir() else path.suffix in (".mcap", ".db3", ".bag")
        )
        if not path.is_dir() and not path.is_file():
            raise PhotoError(f"{path}: not a bag; it is no regular file")
        if not is_bag:
            raise PhotoError(f"{path}: not a bag; expected .mcap, .db3, .bag, or a folder with metadata.yaml")
    return [Source("video", path) for path in dict.fromkeys(paths)]


def read_bags(sources: Sequence[Source], topic: str) -> Iterator[Frame]:
    """Read the pictures of a topic in the bag's order; the frame of a broken one holds its error.

    Args:
        sources: bags, from `find_bags`.
        topic: topic of type ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.

    Raises:
        PhotoError: rosbags is not installed, a bag is broken, or it has no such topic.
    """
    import_rosbags()
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    for source in sources:
        try:
            store = get_typestore(Stores.ROS2_HUMBLE)
            with AnyReader([Path(source.address)], default_typestore=store) as reader:
                yield from _read_topic(reader, source, topic)
        except (AnyReaderError, OSError) as error:  # noqa: PERF203 - once a bag
            raise PhotoError(f"{source.address}: cannot be read as a bag: {error}") from error


def _read_topic(reader: Any, source: Source, topic: str) -> Iterator[BagFrame]:  # noqa: ANN401
    images = [each for each in reader.connections if each.msgtype in IMAGES]
    connections = [each for each in images if each.topic == topic]
    if not connections:
        names = ", ".join(sorted({each.topic for each in images})) or "none"
        raise PhotoError(f"{source.address}: no images on topic {topic}; topics with images: {names}")
    first: int | None = None
    for index, (connection, recorded, data) in enumerate(reader.messages(connections)):
        first = recorded if first is None else first
        frame = BagFrame(source, None, index=index, time=(recorded - first) / 1e9, recorded=recorded)
        try:
            message = reader.deserialize(data, connection.msgtype)
            yield replace(frame, photo=photo_of_message(message), header=message.header)
        except PhotoError as error:
            yield replace(frame, error=PhotoError(f"{source.address}: message {index} of {topic}: {error}"))


class BagFiles:
    """Writes a ROS 2 bag of results for each input bag; use it in a ``with`` statement.

    ``OUT/NAME_labels`` is a bag with the topics ``TOPIC/labels`` (``mono8``; ``mono16`` beyond 255 classes),
    ``TOPIC/overlay`` (``rgb8``) and ``TOPIC/label_info`` (``vision_msgs/LabelInfo``, whenever the classes
    change). Each message keeps its picture's header and recording time.

    Args:
        sources: the input bags.
        topic: topic of the pictures.
        out: folder of the results.

    Raises:
        OutputError: two bags have the same name, or a result exists already.
    """

    def __init__(self, sources: Sequence[Source], topic: str, out: Path) -> None:
        self._topic = topic
        self._paths = {source: out / f"{source.stem}_labels" for source in sources}
        for path in self._paths.values():
            if path.exists():
                raise OutputError(f"{path}: exists already; remove it, or choose another --out")
        if len(set(self._paths.values())) < len(sources):
            raise OutputError("two bags have the same name; run them one by one, each with its own --out")
        self._stack = ExitStack()
        self._bag: _Bag | None = None

    def __enter__(self) -> "BagFiles":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Complete the open bag, also after an error, so that its messages can be read."""
        self._stack.close()

    def write(self, result: Result) -> Result:
        """Add a result to the bag of its source; a failed frame adds nothing.

        Raises:
            OutputError: the bag cannot be written.
        """
        frame = result.frame
        if result.segmentation is None or not isinstance(frame, BagFrame):
            return result
        path = self._paths[frame.source]
        try:
            if self._bag is None or self._bag.path != path:
                self._stack.close()
                path.parent.mkdir(parents=True, exist_ok=True)
                self._bag = _Bag(path, self._topic, self._stack)
            self._bag.write(frame, result.segmentation)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        return replace(result, files=(path,))


class _Bag:
    """An open bag of results."""

    def __init__(self, path: Path, topic: str, stack: ExitStack) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self.path = path
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        for name, text in LABEL_INFO.items():
            self._types.register(get_types_from_msg(text, name))
        self._writer = stack.enter_context(Writer(path, version=8, storage_plugin=StoragePlugin.MCAP))
        self._connections = {
            name: self._writer.add_connection(f"{topic}/{name}", kind, typestore=self._types)
            for name, kind in (
                ("labels", IMAGES[0]),
                ("overlay", IMAGES[0]),
                ("label_info", "vision_msgs/msg/LabelInfo"),
            )
        }
        self._classes: tuple[str, ...] = ()

    def write(self, frame: BagFrame, segmentation: Segmentation) -> None:
        """Add the labels, the coloured picture, and the class names if they changed."""
        if segmentation.classes != self._classes:
            self._classes = segmentation.classes
            self._add("label_info", frame, **self._label_info(segmentation))
        self._add("labels", frame, **image_fields(label_pixels(segmentation)))
        self._add("overlay", frame, **image_fields(np.asarray(draw_frame(segmentation))))

    def _label_info(self, segmentation: Segmentation) -> dict[str, Any]:
        entry = self._types.types["vision_msgs/msg/VisionClass"]
        names = enumerate(segmentation.classes)
        return {
            "class_map": [entry(class_id=label, class_name=name) for label, name in names],
            "threshold": float(segmentation.background or 0.0),
        }

    def _add(self, name: str, frame: BagFrame, **fields: Any) -> None:  # noqa: ANN401
        connection, types = self._connections[name], self._types.types
        stamp = frame.header.stamp
        time = types["builtin_interfaces/msg/Time"](sec=stamp.sec, nanosec=stamp.nanosec)
        header = types["std_msgs/msg/Header"](stamp=time, frame_id=frame.header.frame_id)
        message = types[connection.msgtype](header=header, **fields)
        data = self._types.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, frame.recorded, data)
