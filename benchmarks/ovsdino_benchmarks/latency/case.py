"""A measured case: a model form, a photo size, and a number of classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ovsdino_benchmarks.latency.baselines import BaselineJob, WayName
from ovsdino_benchmarks.latency.roofline import Rates, count_flops
from ovsdino_benchmarks.model_variants.models import ModelSpec
from ovsdino_benchmarks.results.environment import Environment
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.bundle.bundle import GOLDEN, Bundle
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary

NewProcesses = Literal["all", "first", "none"]  # cases in which first runs are measured
WORDS_FROM = ("coco_stuff171", "ade847", "context459")  # class names for timing, in this order


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """The model forms, sizes and numbers of classes to measure."""

    spec: ModelSpec = field(default_factory=ModelSpec)
    sizes: tuple[tuple[int, int], ...] = ((640, 480),)  # width, height [px]
    classes: tuple[int, ...] = (171,)
    templates: str = "model"
    repeats: int = 20
    warmup: int = 3
    baselines: tuple[WayName, ...] = ("torch", "onnxruntime")
    photo: Path | None = None  # None takes the bundle's golden photo
    new_processes: NewProcesses = "all"


@dataclass(frozen=True)
class Case:
    """One photo size and one number of classes of a request."""

    request: LatencyRequest
    bundle: Bundle
    rates: Rates
    photo: Path
    threads: int
    vocabulary: Vocabulary
    environment: Environment
    new_processes: bool = True  # whether to measure first runs in new processes

    def job(self, way: WayName, text: Path) -> BaselineJob:
        """Describe an implementation for a new process; ``text`` is the file of the class embeddings."""
        spec = self.request.spec
        checkpoint = str(spec.checkpoint) if spec.checkpoint else None
        classes, templates = self.vocabulary.classes, self.request.templates
        return BaselineJob(
            way=way,
            model=spec.model,
            form=spec.form,
            checkpoint=checkpoint,
            threads=self.threads,
            templates=templates,
            classes=classes,
            text=str(text),
        )

    def vision_flops(self, windows: int) -> int:
        """Return the floating-point operations of the vision graph."""
        file = self.bundle.file(self.bundle.manifest.graphs["vision"].file)
        size = self.bundle.manifest.windows.size
        return windows * count_flops(file, {"pixels": (1, 3, size, size)})


def choose_classes(count: int) -> Vocabulary:
    """Return real class names, one word each: the first 171 are COCO-Stuff's."""
    names = dict.fromkeys(words[0] for name in WORDS_FROM for words in load_vocabulary(name).classes)
    chosen = [*names, *(f"thing number {number}" for number in range(count - len(names)))][:count]
    return Vocabulary(tuple((name,) for name in chosen))


def make_photo(bundle: Bundle, source: Path | None, *, size: tuple[int, int], folder: Path) -> Path:
    """Write a JPEG of a given width and height: the source, or the bundle's golden photo, resized.

    Raises:
        PhotoError: the source cannot be read.
    """
    from PIL import Image

    if source is not None:
        pixels = load_photo(source)
    else:
        with np.load(bundle.file(GOLDEN), allow_pickle=False) as golden:
            pixels = golden["image"]
    file = folder / f"{size[0]}x{size[1]}.jpg"
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, quality=90)
    return file
