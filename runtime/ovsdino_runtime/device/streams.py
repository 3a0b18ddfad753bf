"""CUDA streams of a device pipeline."""

from dataclasses import dataclass

from ovsdino_runtime.cuda.driver import CudaStream, Device

VISION_STREAMS = 2


@dataclass(frozen=True)
class Streams:
    """All streams of a pipeline."""

    copy: CudaStream
    vision: tuple[CudaStream, ...]
    text: CudaStream

    @classmethod
    def make(cls, device: Device) -> "Streams":
        """Create all streams on a device."""
        vision = tuple(device.make_stream(f"vision {index}") for index in range(VISION_STREAMS))
        return cls(device.make_stream("copy"), vision, device.make_stream("text"))

    def all(self) -> tuple[CudaStream, ...]:
        """Return all streams, in no particular order."""
        return (self.copy, *self.vision, self.text)
