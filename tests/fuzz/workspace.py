"""What the cases share: a tiny model on disk, what it says of one photo, and ways to damage bytes."""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from ovsdino_runtime.bundle.bundle import MANIFEST, write_bundle
from ovsdino_runtime.bundle.manifest import manifest_digest
from ovsdino_runtime.geometry.types import Photo
from ovsdino_runtime.segmenter import Segmenter
from tests.runtime.conftest import _stage, tiny_manifest

WORDS = "red, green, blue|navy, white"


@dataclass(frozen=True)
class Workspace:
    """A folder for the cases. ``OVSDINO_CACHE`` is ``folder / "cache"``."""

    folder: Path

    @cached_property
    def bundle(self) -> Path:
        """A tiny bundle that is not changed."""
        staging = self.folder / "staging"
        staging.mkdir(parents=True)
        _stage(staging)
        return write_bundle(self.folder / "tiny.ovs", tiny_manifest(), staging).path

    @cached_property
    def photo(self) -> Photo:
        """A photo with all colours that the tiny model knows. Shape: (48, 80, 3)."""
        random = np.random.default_rng(5)
        return np.repeat(random.choice([0, 255], (48, 10, 3)).astype(np.uint8), 8, axis=1)

    @cached_property
    def labels(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]]":
        """What the undamaged model and an empty cache say of the photo."""
        return self.label(self.bundle)

    @property
    def cache(self) -> Path:
        """The text cache."""
        return self.folder / "cache" / "text.sqlite3"

    def label(self, bundle: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.uint16]]":
        """Label the photo with a bundle."""
        segmenter = Segmenter.load(bundle, threads=1)
        try:
            return segmenter(self.photo, WORDS).labels
        finally:
            segmenter.close()

    def scratch(self) -> Path:
        """Empty the folder of one case."""
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def encoded(self, kind: str) -> bytes:
        """The photo as a file."""
        image = Image.fromarray(self.photo)
        image.save(file := BytesIO(), kind)
        return file.getvalue()


def damage(data: bytes, random: Random) -> bytes:
    """Flip bits, cut, repeat, insert or replace: one to four times."""
    content = bytearray(data)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(content) + 1)
        length = random.choice([1, 2, 4, 16, 256])
        how = random.randrange(5)
        if how == 0 and content:
            content[place % len(content)] ^= 1 << random.randrange(8)
        elif how == 1:
            del content[place:]
        elif how == 2:
            content[place:place] = content[place : place + length] * random.randint(1, 8)
        elif how == 3:
            content[place:place] = random.randbytes(length)
        else:
            content[place : place + length] = random.choice([b"\0", b"\xff"]) * length
    return bytes(content)


def sign(bundle: Path) -> None:
    """Write hashes and digest of a damaged bundle again, as an attacker would; leave what is no JSON."""
    import hashlib

    file = bundle / MANIFEST
    if not file.is_file():  # a pipe or a device in its place, which would be read without end
        return
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for name in record["files"]:
            if (bundle / name).is_file():
                record["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        record["digest"] = manifest_digest(record)
        file.write_text(json.dumps(record), encoding="utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return
