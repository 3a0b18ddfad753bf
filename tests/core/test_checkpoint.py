"""Our own checkpoints: round trips and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovsdino.network.checkpoint import CheckpointError, load_model, read_config, read_model, save_model
from ovsdino.network.config import ModelConfig
from ovsdino.network.model import OVSDINO


def test_round_trip_is_exact(model: OVSDINO, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    again = read_model(model.config, path)
    assert read_config(path) == model.config
    assert not again.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_precision_file_comes_back_as_fp32(model: OVSDINO, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_model(model, path, dtype=torch.float16)
    again = read_model(model.config, path)
    assert all(value.dtype == torch.float32 for value in again.state_dict().values())
    torch.testing.assert_close(again.projector.weight, model.projector.weight.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.safetensors", None, "no checkpoint at"),
        ("broken.safetensors", b"not a tensor file", "not a readable checkpoint"),
        ("broken.pt", b"nor this", "not a readable checkpoint"),
    ],
)
def test_unreadable_files_are_refused(
    tiny: ModelConfig, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_model(tiny, tmp_path / name)


def test_torch_file_of_other_objects_is_refused(tiny: ModelConfig, tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors"):
        read_model(tiny, tmp_path / "other.pt")


def test_checkpoint_of_another_preset_names_the_keys(model: OVSDINO, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_model(model, path)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of ovsdino-vitb14: .*mis-shaped"):
        load_model("ovsdino-vitb14", path)


def test_unknown_and_weightless_presets() -> None:
    with pytest.raises(CheckpointError, match="unknown model 'nanoo'; known: ovsdino-vitb14, nano"):
        load_model("nanoo")
    with pytest.raises(CheckpointError, match="no public weights: give a checkpoint"):
        load_model("ovsdino-vitb14")
