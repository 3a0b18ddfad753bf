"""The Python steps of a Triton model repository: photo to windows, classes to embeddings, the head.

`ovsdino_export.serve_repository` writes the repository, whose ``model.py`` files call these steps. The server
itself runs the graphs, so that it can batch windows and words of several requests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ovsdino_runtime.base.errors import ClassesError, EngineError, OvsdinoError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.geometry.preprocess import cut_windows, fit_size, normalise
from ovsdino_runtime.geometry.types import Array, Floats
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.pipelines.host_stages import Merge, Prepare, Prepared
from ovsdino_runtime.serve.upload import UploadLimits, check_count, read_upload
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary


class Step(Protocol):
    """Compute outputs from inputs, both by name."""

    inputs: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def respond(requests: Sequence[Any], step: Step) -> list[Any]:
    """Answer Triton's requests; an error that a client can fix is returned for its request only."""
    import triton_python_backend_utils as triton

    answers = []
    for request in requests:
        arrays = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in step.inputs}
        outputs, error = _compute(step, arrays)
        tensors = [triton.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
        if error is None:
            answers.append(triton.InferenceResponse(output_tensors=tensors))
        else:
            answers.append(triton.InferenceResponse(output_tensors=[], error=triton.TritonError(error)))
    return answers


def _compute(step: Step, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], str | None]:
    try:
        return step(arrays), None
    except OvsdinoError as error:
        return {}, " ".join(str(error).split())


class PrepareStep:
    """Cut a photo file into windows. Shape: photo (bytes,) -> pixels (B, 3, S, S), size (2,)."""

    inputs = ("photo",)

    def __init__(self, bundle: Path) -> None:
        self._manifest = load_bundle(bundle).manifest
        self._prepare = Prepare(self._manifest)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Decode, resize and cut."""
        photo = read_upload(inputs["photo"].tobytes(), UploadLimits()).photo  # (H, W, 3)
        prepared = self._prepare(photo)
        pixels = normalise(prepared.resized, self._manifest.preprocessing)
        windows = cut_windows(pixels, prepared.windows, self._manifest.windows.size)  # (B, 3, S, S)
        return {"pixels": windows, "size": np.array(prepared.size, np.int32)}


class WordsStep:
    """Embed classes; the text model encodes new words. Shape: classes (N,) -> text (N, D)."""

    inputs = ("classes",)

    def __init__(self, bundle: Path, text_model: str) -> None:
        loaded = load_bundle(bundle)
        cache = TextCache(cache_dir() / "text.sqlite3")
        self._encoder = TextEncoder(loaded, cache, engine=lambda: TritonEngine(text_model))
        self._templates = loaded.manifest.templates

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Look words up, and encode new ones."""
        vocabulary = check_count(read_names(inputs["classes"]), UploadLimits())
        return {"text": self._encoder.encode_classes(vocabulary, self._templates)}


class HeadStep:
    """Compute labels from features and embeddings; a negative background threshold means none.

    Shape: features (B, D, h, w), text (N, D), size (2,), background (1,) -> labels (H, W), scores (H, W).
    """

    inputs = ("features", "text", "size", "background")

    def __init__(self, bundle: Path) -> None:
        self._manifest = load_bundle(bundle).manifest
        self._merge = Merge(self._manifest)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Merge the windows and find the class of each pixel."""
        height, width = (int(side) for side in inputs["size"])
        threshold = float(inputs["background"][0])
        if not threshold <= 1:
            raise ClassesError(
                f"the background's threshold must be in 0..1, or negative for none, got {threshold}"
            )
        limits, policy = self._manifest.preprocessing, self._manifest.windows
        fitted = fit_size(height, width, short_side=limits.short_side, long_side=limits.long_side)
        windows = tuple(plan_windows(*fitted, size=policy.size, stride=policy.stride))
        resized = np.broadcast_to(np.uint8(0), (*fitted, 3))  # of which only the size counts from here on
        labels, scores = self._merge(
            Prepared((height, width), resized, windows),
            inputs["features"],
            inputs["text"],
            threshold=None if threshold < 0 else threshold,
        )
        return {"labels": labels, "scores": scores}


class TritonEngine:
    """An engine that calls another model of the same Triton server.

    Args:
        model: name of that model.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self.description = f"{model} on Triton Inference Server"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the embeddings of phrases. Shape: ids (B, T) -> embeddings (B, D).

        Raises:
            EngineError: the model failed.
        """
        import triton_python_backend_utils as triton

        answer = triton.InferenceRequest(
            model_name=self._model,
            requested_output_names=["embeddings"],
            inputs=[triton.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if answer.has_error():
            raise EngineError(f"{self.description}: {answer.error().message()}")
        embeddings: Floats = triton.get_output_tensor_by_name(answer, "embeddings").as_numpy()
        return {"embeddings": embeddings}


def read_names(classes: Array) -> Vocabulary:
    """Read class names from Triton's array of bytes: one class each, with ``|`` between synonyms.

    Raises:
        ClassesError: the names are not UTF-8, or do not form a valid vocabulary.
    """
    try:
        return read_classes([bytes(name).decode() for name in classes.ravel()])
    except UnicodeDecodeError as error:
        raise ClassesError(f"a class's name is not UTF-8: {error.object!r}") from error
