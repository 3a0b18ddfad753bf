"""The tiny bundle of the runtime's tests, served."""

import pytest

from ovsdino_runtime.bundle.bundle import write_bundle
from ovsdino_runtime.segmenter import Segmenter
from tests.runtime.conftest import _stage, tiny_manifest
from tests.serve.running import running


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The path of the tiny bundle."""
    _stage(folder := tmp_path_factory.mktemp("staging"))
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny.ovs", tiny_manifest(), folder).path


@pytest.fixture(scope="session")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSDINO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def segmenter(tiny, _cache):
    """A segmenter of one's own."""
    return Segmenter.load(tiny, threads=1)


@pytest.fixture(scope="session")
def reference(tiny, _cache):
    """The segmenter that answers are compared with."""
    return Segmenter.load(tiny, threads=1)


@pytest.fixture(scope="session")
def address(tiny, _cache):
    """Of a server with the usual options."""
    with running(Segmenter.load(tiny, threads=1)) as address:
        yield address
