"""Segmenters in TFLite files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovsdino.masks.errors import MaskError
from ovsdino_runtime.geometry.types import Photo

ByteLabels = NDArray[np.uint8]  # (h, w)


@dataclass(frozen=True)
class TeacherFile:
    """A segmenter's file and its input format."""

    file: str
    floating: bool  # input in [-1, 1] and logits out; else uint8 in and labels out


TEACHERS = {
    "ade": TeacherFile("deeplabv3_mnv2_ade20k31_uint8.tflite", floating=False),
    "voc": TeacherFile("deeplabv3_mnv2_voc21_uint8.tflite", floating=False),
    "voc_float": TeacherFile("deeplabv3_mnv2_voc21_float.tflite", floating=True),
    "cityscapes": TeacherFile("deeplab_edgetpu_cityscapes19_uint8.tflite", floating=False),
}


class TfliteSegmenter:
    """One TFLite network, on one thread.

    Raises:
        MaskError: the file is missing, or not a TFLite network.
    """

    def __init__(self, file: Path, *, floating: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not file.is_file():
            raise MaskError(f"{file}: no such file; --teachers wants the folder of the TFLite segmenters")
        try:
            self.network = Interpreter(model_path=str(file), num_threads=1)
            self.network.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise MaskError(f"{file}: no TFLite network ({' '.join(str(error).split())[:120]})") from error
        self.floating = floating
        source = self.network.get_input_details()[0]
        self.source, self.size = source["index"], int(source["shape"][1])
        self.target = self.network.get_output_details()[0]["index"]

    def __call__(self, photo: Photo) -> ByteLabels:
        """Label a photo: (H, W, 3) RGB -> (H, W), by nearest neighbour from the network's own resolution."""
        square = Image.fromarray(photo).resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.asarray(square)[None]
        self.network.set_tensor(
            self.source, pixels.astype(np.float32) / 127.5 - 1 if self.floating else pixels
        )
        self.network.invoke()
        output = self.network.get_tensor(self.target)[0]
        labels = (output.argmax(-1) if self.floating else output.squeeze()).astype(np.uint8)
        size = (photo.shape[1], photo.shape[0])
        return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
