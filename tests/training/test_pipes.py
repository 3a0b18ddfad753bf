"""A named pipe for a file of training or mask making: one line, and no wait for a writer."""

import os
import signal
from pathlib import Path

import pytest

from ovsdino.masks.label_files import read_names
from ovsdino.masks.label_sets import read_beside, read_sets
from ovsdino.masks.nouns.captions import read_captions
from ovsdino.masks.store.shards import MaskReader
from ovsdino.masks.teachers.concepts import read_concepts
from ovsdino.network.checkpoint import read_config, read_tensors
from ovsdino.network.text_tower import load_text_tower
from ovsdino.training.data.synonyms import read_distractors
from ovsdino.training.run.checkpointing import STATE, read_header
from ovsdino.zoo.card import read_configuration
from ovsdino_benchmarks.results.results import load
from ovsdino_runtime.base.errors import OvsdinoError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX files")


@pytest.fixture(autouse=True)
def no_wait():
    """End a test that waits for the other end of a pipe."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def beside(read, name):
    """Call a reader of folders with the folder of the pipe."""
    return name, lambda path: read(path.parent)


READERS = {
    "names": ("names.txt", read_names),
    "sets": ("sets.json", read_sets),
    "beside": ("synonyms.json", read_beside),
    "captions": ("captions.json", lambda path: read_captions(path, path.parent)),
    "concepts": ("concepts.json", lambda path: read_concepts(path, path, None)),
    "weights": ("x.safetensors", read_tensors),
    "pickle": ("x.pt", read_tensors),
    "configuration": ("x.safetensors", read_config),
    "text tower": ("x.safetensors", load_text_tower),
    "card": ("x.safetensors", read_configuration),
    "distractors": beside(read_distractors, "distractors.json"),
    "masks": beside(MaskReader, "masks.json"),
    "results": ("results.json", load),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused(tmp_path, reader):
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    with pytest.raises(OvsdinoError) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert Path(str(tmp_path)).name in str(caught.value)


def test_a_pipe_is_no_state_of_a_run(tmp_path):
    os.mkfifo(tmp_path / STATE)
    assert read_header(tmp_path) is None
