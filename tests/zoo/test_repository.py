"""A trained network to the Hub and back: weights, records and a card made of them."""

import csv
import hashlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ovsdino.network.checkpoint import read_model, save_model
from ovsdino.network.config import NANO
from ovsdino.network.model import OVSDINO
from ovsdino.training.recipe import NANO_RECIPE
from ovsdino.training.run.checkpointing import STATE, Header
from ovsdino.zoo.card import read_run, write_card
from ovsdino.zoo.cli import models
from ovsdino.zoo.repository import pull, push, write_folder
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from tests.zoo.servers import COMMIT, serving

TINY = replace(NANO, name="tiny", image_size=32, position_grid=2, encoder_width=32, norm_groups=16)
EPOCHS = [{"step": 6, "epoch": 1, "mIoU": 14.45}, {"step": 12, "epoch": 2, "mIoU": 23.8}]
LOSSES = [3.0, 2.0, 1.5]


@pytest.fixture
def run(tmp_path):
    """What `ovsdino train` leaves behind."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    save_model(OVSDINO(TINY), folder / "last.safetensors")
    recipe = replace(NANO_RECIPE, model=TINY).to_dict()
    settings = {
        "recipe": recipe,
        "masks": "348fecb3",
        "init": "68d2016a",
        "text tower": "c0d8",
        "sam": "none",
    }
    header = json.dumps(asdict(Header(step=12, best=23.8, frozen="f", settings=settings, scaler={})))
    save_file({"model.x": torch.zeros(1)}, folder / STATE, metadata={"state": header})
    for name, rows in (
        ("epochs.csv", EPOCHS),
        ("steps.csv", [{"step": n, "loss": x} for n, x in enumerate(LOSSES)]),
    ):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_the_card_holds_the_runs_own_numbers(run):
    card = write_card(read_run(run), "me/beach", "apache-2.0")
    front, text = card.removeprefix("---\n").split("\n---\n", 1)
    assert "license: apache-2.0" in front.splitlines()
    assert text.lstrip().startswith("# beach\n")
    rows = {
        row[1].strip(): row[2].strip()
        for row in (line.split("|") for line in text.splitlines())
        if len(row) == 4
    }
    assert rows["preset"] == "tiny"
    assert rows["recipe"] == "nano"
    assert rows["steps"] == "12"
    assert rows["phases"] == "9 epochs at 288 px, batch 16, 1 epochs at 448 px, batch 12"
    assert float(rows["loss, mean of the last 3 steps"]) == pytest.approx(sum(LOSSES) / 3, rel=1e-3)
    assert rows["best mIoU in validation"] == "23.80"
    assert rows["masks, digest"] == "348fecb3"
    digest = hashlib.sha256((run / "last.safetensors").read_bytes()).hexdigest()
    assert rows["sha256 of model.safetensors"] == digest
    assert "| 12 | 2 | 23.8 |" in text
    assert "ovsdino models pull me/beach" in text
    assert (
        json.loads(text.split("```json\n")[1].split("\n```")[0]) == replace(NANO_RECIPE, model=TINY).to_dict()
    )


def test_a_licence_is_stated_only_where_it_is_given(run):
    card = write_card(read_run(run), "me/beach", None)
    assert "license:" not in card
    assert "stated no licence" in card


def test_the_folder_that_would_be_uploaded(run, tmp_path):
    result = CliRunner().invoke(models, ["push", str(run), "me/beach", "--folder", str(tmp_path / "up")])
    assert result.exit_code == 0, result.output
    assert "nothing was uploaded" in result.output
    names = sorted(path.name for path in (tmp_path / "up").iterdir())
    assert names == ["README.md", "epochs.csv", "model.safetensors", "steps.csv"]
    assert (tmp_path / "up" / "model.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()
    again = CliRunner().invoke(models, ["push", str(run), "me/beach", "--folder", str(tmp_path / "up")])
    assert again.exit_code == 2
    assert "exists already; choose another folder" in again.stderr


def test_the_best_weights_go_first(run):
    save_model(OVSDINO(replace(TINY, name="best")), run / "best.safetensors")
    assert read_run(run).weights.name == "best.safetensors"


def test_a_folder_without_a_run_is_refused(tmp_path):
    result = CliRunner().invoke(models, ["push", str(tmp_path), "me/beach"])
    assert result.exit_code == 2
    assert "no run of `ovsdino train` with a finished epoch" in result.stderr


def test_to_the_hub_and_back(run, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        address = push(write_folder(run, "me/beach", tmp_path / "up"), "me/beach", private=True)
        assert address.startswith(f"{server.address}/me/beach/commit/")
        made = server.created[0]
        assert (made["organization"], made["name"]) == ("me", "beach")
        assert "private" in (made.get("visibility"), *(key for key in ("private",) if made.get(key)))
        uploaded = {path.rpartition("/")[2] for path in server.files}
        assert uploaded == {"README.md", "epochs.csv", "model.safetensors", "steps.csv"}
        assert pull("me/beach", tmp_path / "back.safetensors") == "tiny"
    assert read_model(TINY, tmp_path / "back.safetensors").config == TINY
    sent, back = load_file(run / "last.safetensors"), load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[key], value) for key, value in sent.items())
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_a_pull_of_something_else_is_refused(tmp_path, monkeypatch, capfd):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with serving() as server:
        server.files["/me/x/resolve/main/model.safetensors"] = (tmp_path / "other.safetensors").read_bytes()
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        out = tmp_path / "out.safetensors"
        for repo, words in (("me/x", "no model configuration inside"), ("me/none", "was not fetched")):
            result = CliRunner().invoke(models, ["pull", repo, "--out", str(out)])
            assert result.exit_code == 2
            assert words in result.stderr
            assert not out.exists()


def test_the_bundle_that_a_push_uploads_is_found_by_the_repositorys_name(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    bundle = find_bundle("nano")
    folder = write_folder(run, "me/beach", tmp_path / "upload", bundle=bundle)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        push(folder, "me/beach")
        for path, content in list(server.files.items()):
            server.files[path.replace("/main/", f"/{COMMIT}/")] = content
        fetched = find_bundle("me/beach")
    assert fetched != bundle
    assert load_bundle(fetched).digest == load_bundle(bundle).digest
