"""Versions in a bundle's manifest."""

from importlib import metadata

import onnxruntime
import pytest

from ovsdino_export.graphs.versions import program_versions


def test_versions_are_those_of_the_packages():
    assert program_versions(["torch", "onnxruntime"]) == {
        "torch": metadata.version("torch"),
        "onnxruntime": onnxruntime.__version__,
    }
    with pytest.raises(metadata.PackageNotFoundError):
        program_versions(["no-such-package"])


def test_onnx_runtime_for_gpus_is_onnx_runtime(monkeypatch):
    installed = metadata.version

    def version(name):
        if name == "onnxruntime":  # onnxruntime-gpu is in its place
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    assert program_versions(["onnxruntime"]) == {"onnxruntime": onnxruntime.__version__}
