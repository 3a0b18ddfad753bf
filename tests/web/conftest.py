"""An npm package with small files in it in the place of ONNX Runtime Web, where it is not run."""

import io
import tarfile

import pytest

from ovsdino_export.web import onnxruntime_web
from tests.runtime.conftest import bundle, cache, shared_bundle, staging

__all__ = ["bundle", "cache", "shared_bundle", "staging"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package file that has the expected hash."""
    file = tmp_path / "onnxruntime-web.tgz"
    names = {name for files in onnxruntime_web.FILES.values() for name in files.values()}
    with tarfile.open(file, "w:gz") as archive:
        for name in sorted(names):
            data = f"content of {name}".encode()
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setattr(onnxruntime_web, "SHA512", onnxruntime_web._sha512(file.read_bytes()))
    return file
