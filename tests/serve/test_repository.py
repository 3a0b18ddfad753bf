"""The Triton repository: its configs by Triton's own schema, its Python by a stand-in that runs the graphs.

No Triton Inference Server runs here. `Server` below goes an ensemble's way as its config says, step by step:
graphs in ONNX Runtime, Python models by their ``execute``.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ovsdino_export.cli import export
from ovsdino_export.serve_repository import write_repository
from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.geometry.windows import plan_windows
from tests.serve.running import png
from tests.serve.test_segment import FLAG

MODELS = ["tiny_vision", "tiny_text", "tiny_prepare", "tiny_words", "tiny_head", "tiny"]
NUMPY = {"TYPE_UINT8": "uint8", "TYPE_UINT16": "uint16", "TYPE_INT32": "int32", "TYPE_INT64": "int64"}
NUMPY |= {"TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_STRING": "object"}


@pytest.fixture(scope="module")
def repository(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    done = CliRunner().invoke(export, ["--bundle", str(tiny), "--serve-repository", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [f"-> {folder / model}" for model in MODELS]
    return folder


def read_config(folder: Path) -> model_config_pb2.ModelConfig:
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def configs(repository):
    return {model: read_config(repository / model) for model in MODELS}


def kind(port) -> str:
    return model_config_pb2.DataType.Name(port.data_type)


class Server:
    """A small server for one repository: `infer` checks what goes in and out of each model by its config."""

    def __init__(self, repository: Path):
        self.configs = {folder.name: read_config(folder) for folder in repository.iterdir()}
        self.repository, self.loaded, self.runs = repository, {}, []

    def infer(self, model: str, inputs: dict) -> dict:
        config = self.configs[model]
        self.check(config, config.input, inputs)
        self.runs.append(model)
        outputs = self.run(config, inputs)
        self.check(config, config.output, outputs)
        return outputs

    def check(self, config, ports, arrays):
        assert {port.name for port in ports} == set(arrays)
        for port in ports:
            array = arrays[port.name]
            assert array.dtype == NUMPY[kind(port)], (config.name, port.name, array.dtype)
            dims = [-1] * bool(config.max_batch_size) + list(port.dims)
            assert array.ndim == len(dims), (config.name, port.name, array.shape)
            assert all(dim in (-1, side) for dim, side in zip(dims, array.shape, strict=True))
            assert not config.max_batch_size or array.shape[0] <= config.max_batch_size

    def run(self, config, inputs):
        folder = self.repository / config.name / "1"
        if config.platform == "ensemble":
            return self.run_ensemble(config, inputs)
        if config.backend == "onnxruntime":
            file = str(folder / config.default_model_filename)
            session = self.loaded.setdefault(config.name, onnxruntime.InferenceSession(file))
            names = [port.name for port in config.output]
            return dict(zip(names, session.run(names, inputs), strict=True))
        if config.name not in self.loaded:
            spec = importlib.util.spec_from_file_location(config.name, folder / "model.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self.loaded[config.name] = module.TritonPythonModel()
            self.loaded[config.name].initialize({"model_name": config.name})
        (answer,) = self.loaded[config.name].execute([Request(inputs)])
        if answer.has_error():
            raise ValueError(answer.error().message())
        return {tensor.name: tensor.as_numpy() for tensor in answer.output_tensors()}

    def run_ensemble(self, config, inputs):
        tensors, waiting = dict(inputs), list(config.ensemble_scheduling.step)
        while waiting:
            step = next(s for s in waiting if all(name in tensors for name in s.input_map.values()))
            waiting.remove(step)
            given = {inner: tensors[outer] for inner, outer in step.input_map.items()}
            found = self.infer(step.model_name, given)
            tensors |= {outer: found[inner] for inner, outer in step.output_map.items()}
        return {port.name: tensors[port.name] for port in config.output}


class Tensor:
    def __init__(self, name, array):
        assert isinstance(array, np.ndarray)
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


class Request:
    def __init__(self, inputs):
        self.inputs = {name: Tensor(name, array) for name, array in inputs.items()}


class TritonError:
    def __init__(self, message):
        self._message = message

    def message(self):
        return self._message


class Response:
    def __init__(self, output_tensors, error=None):
        self._tensors, self._error = output_tensors, error

    def output_tensors(self):
        return self._tensors

    def has_error(self):
        return self._error is not None

    def error(self):
        return self._error


@pytest.fixture
def server(repository, monkeypatch, tmp_path):
    """The stand-in, and its triton_python_backend_utils."""
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    server = Server(repository)

    class InferenceRequest:
        def __init__(self, model_name, requested_output_names, inputs, preferred_memory):
            self.model, self.names, self.inputs = model_name, requested_output_names, inputs
            assert preferred_memory == "in CPU"

        def exec(self):
            try:
                found = server.infer(self.model, {one.name: one.as_numpy() for one in self.inputs})
            except Exception as error:  # noqa: BLE001 - whatever fails is an answer, as in Triton
                return Response([], TritonError(str(error)))
            return Response([Tensor(name, found[name]) for name in self.names])

    utils = types.ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError, utils.InferenceResponse = Tensor, TritonError, Response
    utils.InferenceRequest = InferenceRequest
    utils.TRITONSERVER_MEMORY_CPU, utils.PreferredMemory = "CPU", "in {}".format
    utils.get_input_tensor_by_name = lambda request, name: request.inputs[name]
    utils.get_output_tensor_by_name = lambda answer, name: next(
        tensor for tensor in answer.output_tensors() if tensor.name == name
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    return server


def order(photo: bytes, classes: str, background=-1.0) -> dict:
    return {
        "photo": np.frombuffer(photo, np.uint8),
        "classes": np.array([name.strip().encode() for name in classes.split(",")], object),
        "background": np.float32([background]),
    }


def test_every_config_is_of_tritons_schema_and_has_its_files(repository, configs):
    assert sorted(folder.name for folder in repository.iterdir()) == sorted(MODELS)
    for name, config in configs.items():
        assert config.name == name
        assert (repository / name / "1").is_dir()
        if config.default_model_filename:
            assert (repository / name / "1" / config.default_model_filename).is_file()
    assert configs["tiny_vision"].HasField("dynamic_batching")
    assert configs["tiny_text"].HasField("dynamic_batching")
    assert configs["tiny_vision"].dynamic_batching.max_queue_delay_microseconds == 1000
    load_bundle(repository / "tiny_vision" / "1")


def test_a_photo_of_the_greatest_length_fits_a_batch(configs):
    assert configs["tiny_vision"].max_batch_size == len(plan_windows(64, 256, size=64, stride=32))


def test_the_ensembles_tensors_fit_together(configs):
    """By Triton's rule: the same type, and the same shape with its batch; -1 fits any number."""
    ensemble = configs["tiny"]
    known = {port.name: (kind(port), list(port.dims)) for port in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = configs[step.model_name]
        batch = [-1] * bool(config.max_batch_size)
        assert sorted(step.input_map) == sorted(port.name for port in config.input)
        for port in config.input:
            expected, dims = known[step.input_map[port.name]]
            assert kind(port) == expected
            assert len(batch + list(port.dims)) == len(dims)
            assert all(
                -1 in pair or pair[0] == pair[1] for pair in zip(batch + list(port.dims), dims, strict=True)
            )
        for port in config.output:
            known[step.output_map[port.name]] = kind(port), batch + list(port.dims)
    for port in ensemble.output:
        assert known[port.name] == (kind(port), list(port.dims))


@pytest.mark.parametrize(("background", "threshold"), [(-1.0, None), (0.0, 0.0), (0.9, 0.9)])
@pytest.mark.parametrize("photo", [FLAG, FLAG[:30, :20], FLAG[:10].repeat(2, axis=1)])
def test_the_ensemble_gives_the_runtimes_labels(server, reference, photo, background, threshold):
    words = "red, green|lime, blue"
    found = server.infer("tiny", order(png(photo), words, background))
    expected = reference(photo, words, background=threshold)
    assert np.array_equal(found["labels"], expected.labels)
    np.testing.assert_allclose(found["scores"], expected.scores, atol=2e-3)  # in FP16, batched differently


def test_words_that_are_known_are_not_encoded_again(server):
    for _ in range(3):
        server.infer("tiny", order(png(FLAG), "red, word7"))
    assert server.runs.count("tiny_text") == 1
    assert server.runs.count("tiny_vision") == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (order(b"torn", "red"), "not a photo"),
        (order(png(FLAG), "red, Red"), "class 2 has the name of class 1"),
        (
            order(png(FLAG), "red", 1.5),
            "the background's threshold must be in 0..1, or negative for none, got 1.5",
        ),
        ({**order(png(FLAG), "red"), "classes": np.array([b"\xff"], object)}, "is not UTF-8"),
    ],
)
def test_what_a_client_can_mend_is_its_answer(server, given, message):
    with pytest.raises(ValueError, match=message):
        server.infer("tiny", given)


def test_a_text_model_that_fails_is_told(server, tiny):
    server.configs["tiny_text"].max_batch_size = 1  # fewer than are sent
    with pytest.raises(ValueError, match="tiny_text on Triton Inference Server: "):
        server.infer("tiny", order(png(FLAG), "red, word9"))


def test_models_that_are_there_stay_unless_they_are_to_be_replaced(tiny, tmp_path):
    bundle = load_bundle(tiny)
    (tmp_path / "other").mkdir()
    write_repository(bundle, tmp_path)
    (tmp_path / "tiny_head" / "config.pbtxt").write_text("old")
    with pytest.raises(
        OutputError, match="exists already; choose another --serve-repository, or give --over"
    ):
        write_repository(bundle, tmp_path)
    assert (tmp_path / "tiny_head" / "config.pbtxt").read_text() == "old"
    write_repository(bundle, tmp_path, overwrite=True)
    assert read_config(tmp_path / "tiny_head").backend == "python"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*MODELS, "other"])


def test_fp16_is_served_where_the_bundle_has_it(tiny, tmp_path):
    from ovsdino_runtime.bundle.models import find_bundle

    with pytest.raises(OutputError, match=r"has no graph vision\.fp16; export it with --fp16"):
        write_repository(load_bundle(tiny), tmp_path / "a", fp16=True)
    write_repository(load_bundle(find_bundle("nano")), tmp_path / "b", fp16=True)
    assert read_config(tmp_path / "b" / "nano_vision").default_model_filename == "vision.fp16.onnx"
