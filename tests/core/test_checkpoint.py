"""Our own checkpoints: round trips and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: value.index_fill_(0, torch.tensor([0]), float("nan")), "values that are not finite"),
        (lambda value: value.index_fill_(0, torch.tensor([0]), float("inf")), "values that are not finite"),
        (lambda value: value.to(torch.complex64), r"is torch\.complex64"),
        (lambda value: value > 0, r"weights must be floating-point numbers, got .* torch\.bool"),
        (lambda value: value.to(torch.int8), r"weights must be floating-point numbers, got .* torch\.int8"),
    ],
)
def test_values_that_are_no_weights_are_refused(model, tmp_path, change, reason) -> None:
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    name = next(name for name, value in tensors.items() if value.ndim == 1)
    tensors[name] = change(tensors[name])
    for path in (tmp_path / "weights.safetensors", tmp_path / "weights.pt"):
        if path.suffix == ".pt":
            torch.save(tensors, path)
        else:
            save_file(tensors, path)
        with pytest.raises(CheckpointError, match=reason):
            read_model(model.config, path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02]q\x00.", b"\x80", bytes(99)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_checkpoint_is_one_line(tmp_path, content, suffix) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_model("nano", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
