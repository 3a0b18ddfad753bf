"""The npm package of ONNX Runtime Web, and one with small files in it for all that does not run it."""

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


@pytest.fixture(scope="session")
def npm_package(tmp_path_factory):
    """The real package, from the cache of this user or from npm."""
    try:
        data = onnxruntime_web.find_package()
    except onnxruntime_web.WebRuntimeError as error:
        pytest.skip(str(error))
    file = tmp_path_factory.mktemp("npm") / "package.tgz"
    file.write_bytes(data)
    return file
