"""An analysis that was stopped goes on: the same result, and nothing computed twice."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ovsdino.analysis import partial
from ovsdino.analysis.encoders import Encoder
from ovsdino.analysis.measure import AnalysisRun, measure_similarity, measure_spectra
from ovsdino.analysis.spectrum import SpectrumOptions
from ovsdino_runtime.geometry.preprocess import Preprocessing

BATCH = 2
OPTIONS = SpectrumOptions(bins=4)


class Stop(Exception):  # noqa: N818 - it stands for a kill
    pass


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Save after every batch."""
    monkeypatch.setattr(partial, "SECONDS", 0)


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    paths[4].write_bytes(b"broken")
    return paths


def encoder(name="two", *, seed=0):
    """Two strided convolutions; counts the photos that it sees."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), nn.Conv2d(6, 5, 2, stride=2))
    seen = []

    def layer_maps(pixels, layers):
        seen.append(len(pixels))
        maps = [module[0](pixels), module(pixels)]
        return [maps[layer - 1] for layer in layers]

    return Encoder(
        name=name, depth=2, image_size=32, colours=Preprocessing(), module=module, layer_maps=layer_maps
    ), seen


def spectra(run):
    opened, seen = encoder()
    (found,) = measure_spectra([opened], run, options=OPTIONS)
    return np.hstack([found.energy, found.log_ratio[:, None], found.deviation[:, None]]), found.photos, seen


def similarity(run):
    (first, seen), (second, _) = encoder(), encoder(seed=1)
    found = measure_similarity(first, second, run, last=2)
    return found.cka, found.photos, seen


def stop_after(batches):
    calls = []

    def done(_):
        calls.append(None)
        if len(calls) > batches:  # the first call tells what was done before
            raise Stop

    return done


def kept_in(folder):
    return list(folder.glob(".partial-*"))


@pytest.mark.parametrize("measure", [spectra, similarity])
@pytest.mark.parametrize("batches", [1, 3, 5])
def test_a_stopped_run_goes_on(measure, batches, photos, tmp_path):
    cpu = torch.device("cpu")
    expected, count, seen = measure(AnalysisRun(photos, cpu, BATCH))
    assert (count, sum(seen)) == (8, 8)
    with pytest.raises(Stop):
        measure(AnalysisRun(photos, cpu, BATCH, done=stop_after(batches), partial=tmp_path))
    assert len(kept_in(tmp_path)) == 1
    told = []
    found, count, seen = measure(AnalysisRun(photos, cpu, BATCH, done=told.append, partial=tmp_path))
    np.testing.assert_array_equal(found, expected)
    assert count == 8
    assert sum(seen) == sum([2, 2, 1, 2, 1][batches:])
    assert told[0] == min(batches * BATCH, 9)
    assert sum(told) == 9
    assert not kept_in(tmp_path)


def test_sums_of_another_run_are_not_taken_up(photos, tmp_path):
    cpu = torch.device("cpu")

    def stopped(run_photos):
        with pytest.raises(Stop):
            spectra(AnalysisRun(run_photos, cpu, BATCH, done=stop_after(2), partial=tmp_path))

    stopped(photos[1:])  # other photos
    assert sum(spectra(AnalysisRun(photos, cpu, BATCH, partial=tmp_path))[2]) == 8
    stopped(photos)
    other, seen = encoder(seed=5)  # other weights
    measure_spectra([other], AnalysisRun(photos, cpu, BATCH, partial=tmp_path), options=OPTIONS)
    assert sum(seen) == 8
    stopped(photos)
    same, seen = encoder()  # other options
    measure_spectra(
        [same], AnalysisRun(photos, cpu, BATCH, partial=tmp_path), options=SpectrumOptions(bins=5)
    )
    assert sum(seen) == 8


def test_two_analyses_in_one_folder_leave_each_others_sums(photos, tmp_path):
    cpu = torch.device("cpu")
    for measure in (spectra, similarity):
        with pytest.raises(Stop):
            measure(AnalysisRun(photos, cpu, BATCH, done=stop_after(3), partial=tmp_path))
    for measure in (spectra, similarity):
        assert sum(measure(AnalysisRun(photos, cpu, BATCH, partial=tmp_path))[2]) == 3  # of 8
    assert not kept_in(tmp_path)


def test_a_damaged_file_is_begun_anew(photos, tmp_path):
    with pytest.raises(Stop):
        spectra(AnalysisRun(photos, torch.device("cpu"), BATCH, done=stop_after(2), partial=tmp_path))
    (file,) = kept_in(tmp_path)
    file.write_bytes(b"damaged")
    assert sum(spectra(AnalysisRun(photos, torch.device("cpu"), BATCH, partial=tmp_path))[2]) == 8
    assert not file.exists()


def test_saves_are_seconds_apart(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "SECONDS", 30.0)
    now = [0.0]
    opened, _ = encoder()
    kept = partial.Partial(tmp_path, "key", sums=[], clock=lambda: now[0])
    kept.save(partial.AnalysisProgress(1, 2))
    assert not kept_in(tmp_path)
    now[0] = 31.0
    kept.save(partial.AnalysisProgress(1, 2))
    assert kept.load() == partial.AnalysisProgress(1, 2)
    assert partial.hash_settings([opened.module], 1) != partial.hash_settings([opened.module], 2)


@pytest.mark.parametrize("measure", [spectra, similarity])
def test_a_flipped_bit_anywhere_changes_no_result(measure, photos, tmp_path, caplog):
    cpu = torch.device("cpu")
    expected = measure(AnalysisRun(photos, cpu, BATCH))[0]
    with pytest.raises(Stop):
        measure(AnalysisRun(photos, cpu, BATCH, done=stop_after(2), partial=tmp_path))
    (file,) = kept_in(tmp_path)
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 12).tolist():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        found = measure(AnalysisRun(photos, cpu, BATCH, partial=tmp_path))[0]
        np.testing.assert_array_equal(found, expected)
    assert "damaged, the analysis begins anew" in caplog.text
