"""Official layouts are known by their keys, and come out as safetensors with licence and source."""

import os

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from ovsdino.network.checkpoint import CheckpointError
from ovsdino.zoo import layouts
from ovsdino.zoo.cli import convert as command
from ovsdino.zoo.convert import convert
from ovsdino_runtime.base.errors import OutputError
from tests.zoo import official_files as official

FILES = {
    "dinov2": official.dinov2,
    "dinov3": official.dinov3,
    "dinotxt": official.dinotxt,
    "sam": official.sam,
    "clip": official.clip,
    "talk2dino": official.projection,
    "talk2dino-whole": official.whole,
}


def test_every_layout_is_tested():
    assert {layout.name for layout in layouts.LAYOUTS} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_layout_is_recognised_and_only_it(name):
    tensors = FILES[name]()
    assert [layout.name for layout in layouts.LAYOUTS if layout.marks <= tensors.keys()] == [name]
    assert layouts.recognise(tensors).name == name
    assert layouts.recognise({}) is None


@pytest.mark.parametrize("name", FILES)
def test_names_and_numbers_stay(name, tmp_path):
    tensors = FILES[name]()
    torch.save(tensors, tmp_path / "official.pth")
    target, layout = convert(tmp_path / "official.pth")
    assert target == tmp_path / "official.safetensors"
    again = load_file(target)
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.equal(again[key], value)
        assert again[key].dtype == value.dtype
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["layout"] == layout.name == name
    assert metadata["licence"] == layout.licence
    assert metadata["source"].startswith("https://")
    assert metadata["converted_from"] == "official.pth"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official.pth", "official.safetensors"]


def test_shared_and_strided_tensors_are_written_out(tmp_path):
    tensors = official.projection()
    tensors["linear_layer.weight"] = tensors["linear_layer.weight"].T.contiguous().T
    tensors["hidden_layers.0.bias"] = tensors["linear_layer.bias"]
    torch.save({"state_dict": tensors}, tmp_path / "p.pth")
    target, _ = convert(tmp_path / "p.pth", tmp_path / "out.safetensors")
    assert torch.equal(load_file(target)["linear_layer.weight"], tensors["linear_layer.weight"])


class Code:
    """What a pickle must not do here."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def refuse(path):
    """Run the command and return its one line."""
    result = CliRunner().invoke(command, [str(path)])
    assert result.exit_code == 2, result.output
    assert not path.with_suffix(".safetensors").exists()
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"cls_token": Code()}, tmp_path / "evil.pth")
    assert "a pickle that would run code (posix.mkdir); only files of plain tensors" in refuse(
        tmp_path / "evil.pth"
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-16.pt"))
    assert "a TorchScript archive, which holds code; give a file of plain tensors" in refuse(
        tmp_path / "ViT-B-16.pt"
    )


def test_an_unknown_layout_is_refused_by_its_keys(tmp_path):
    torch.save({"encoder.a": torch.zeros(1), "encoder.b": torch.zeros(1)}, tmp_path / "other.pth")
    line = refuse(tmp_path / "other.pth")
    assert "layout unknown (known: talk2dino-whole, talk2dino, dinotxt, sam" in line
    assert "it holds 2 tensors: encoder.a, encoder.b" in line


def test_what_is_there_is_not_replaced(tmp_path):
    torch.save(official.projection(), tmp_path / "p.pth")
    (tmp_path / "p.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"p\.safetensors exists already; choose another --out"):
        convert(tmp_path / "p.pth")
    with pytest.raises(OutputError, match="is not a directory"):
        convert(tmp_path / "p.pth", tmp_path / "nowhere" / "p.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        convert(tmp_path / "none.pth")


def test_the_command_says_what_it_found(tmp_path):
    torch.save(official.dinov2(), tmp_path / "d.pth")
    result = CliRunner().invoke(command, [str(tmp_path / "d.pth"), "--out", str(tmp_path / "o.safetensors")])
    assert result.exit_code == 0, result.output
    assert "d.pth is a DINOv2 backbone" in result.output
    assert "licence: Apache-2.0" in result.output
