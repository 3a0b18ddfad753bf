import sys
from importlib import metadata

import pytest

from ovsdino_runtime.base.version import version


@pytest.fixture(autouse=True)
def _fresh():
    version.cache_clear()
    yield
    version.cache_clear()


def installed() -> str:
    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"


def test_the_version_is_that_of_pythons_own_metadata():
    assert version() == installed()


def test_the_first_folder_of_the_path_decides(tmp_path, monkeypatch):
    for folder, number in (("a", "1.2.3.dev4+local"), ("b", "9")):
        info = tmp_path / folder / f"ovsdino-{number}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ovsdino\nVersion: {number}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "none"), str(tmp_path / "a"), str(tmp_path / "b")])
    assert version() == "1.2.3.dev4+local" == installed()


def test_an_old_kind_of_installation_is_found_as_well(tmp_path, monkeypatch):
    (tmp_path / "ovsdino.egg-info").mkdir()
    (tmp_path / "ovsdino.egg-info" / "PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: ovsdino\nVersion: 7\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert version() == "7"


def test_a_source_tree_that_is_not_installed_has_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert version() == "unknown"
