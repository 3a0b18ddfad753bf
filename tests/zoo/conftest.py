"""The small models under names of their own, and a cache that is each test's own."""

import pytest

from ovsdino.zoo import config
from tests.zoo.official_files import SMALL, SMALL_DINOV3, SMALL_ZERO_SHOT


@pytest.fixture(autouse=True)
def small_presets(monkeypatch):
    monkeypatch.setitem(config.TALK2DINO, SMALL.name, SMALL)
    monkeypatch.setitem(config.TALK2DINO, SMALL_DINOV3.name, SMALL_DINOV3)
    monkeypatch.setitem(config.ZERO_SHOT, SMALL_ZERO_SHOT.name, SMALL_ZERO_SHOT)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and no setting of the user's."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
