"""Embeddings of words: prompts averaged, kept on disk, encoded once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from ovsdino.network.checkpoint import CheckpointError
from ovsdino.network.clip_text import ClipTextTower
from ovsdino.network.config import NANO, VITB14
from ovsdino.training.targets.word_bank import Prompter, WordError, build_word_bank, load_prompter
from tests.training.small_shards import prompter

WORDS = ["road", "potted plant", "Ångström's lamp"]


def counting(calls: list[int]) -> Prompter:
    """nano's own tower, whose calls are counted."""
    base = prompter()

    def tokenize(prompts: list[str]) -> torch.Tensor:
        calls.append(len(prompts))
        return base.tokenize(prompts)

    return replace(base, tokenize=tokenize)


def test_the_mean_over_prompts_equals_a_loop():
    templates = ("{}", "a photo of a {}.", "many {}")
    several = replace(prompter(), templates=templates)
    found = several.encode(WORDS)
    for word, vector in zip(WORDS, found, strict=True):
        total = torch.zeros(384)
        for template in templates:
            total += prompter().tower(prompter().tokenize([template.replace("{}", word)]))[0].detach()
        torch.testing.assert_close(vector, total / total.norm(), rtol=1e-4, atol=1e-5)


def test_a_bare_word_is_what_the_runtime_would_ask_for():
    assert prompter().templates == ("{}",)
    alone = prompter().tower(prompter().tokenize(["road"]))[0].detach()
    torch.testing.assert_close(prompter().encode(["road"])[0], alone, rtol=1e-5, atol=1e-6)


def test_words_are_encoded_once_and_looked_up_in_any_order(tmp_path):
    calls: list[int] = []
    first = build_word_bank(WORDS, counting(calls), tmp_path)
    assert sum(calls) == 3
    again = build_word_bank([*WORDS, "owl"], counting(calls), tmp_path)
    assert sum(calls) == 4, "only the new word"
    picked = again(["owl", "road", "road"])
    assert torch.equal(picked[1], picked[2])
    assert torch.equal(picked[1], first(["road"])[0])
    torch.testing.assert_close(picked, prompter().encode(["owl", "road", "road"]), rtol=1e-4, atol=1e-5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_another_prompt_or_tower_has_a_file_of_its_own(tmp_path):
    base = prompter()
    other_prompts = replace(base, templates=("a {}",))
    tower = load_prompter(NANO).tower
    with torch.no_grad():
        tower.project.bias[0] += 1e-3
    digests = {base.digest, other_prompts.digest, replace(base, tower=tower).digest}
    assert len(digests) == 3
    for one in (base, other_prompts):
        build_word_bank(["road"], one, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_is_stopped_keeps_what_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("ovsdino.training.targets.word_bank.SAVE_EVERY", 0)
    monkeypatch.setattr("ovsdino.training.targets.word_bank.BATCH", 1)
    calls: list[int] = []
    limited = counting(calls)

    def dies_at_three(prompts: list[str]) -> torch.Tensor:
        if len(calls) == 2:
            raise KeyboardInterrupt
        return limited.tokenize(prompts)

    with pytest.raises(KeyboardInterrupt):
        build_word_bank(["a", "b", "c", "d"], replace(limited, tokenize=dies_at_three), tmp_path)
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["words"]) == ["a", "b"]
    calls.clear()
    build_word_bank(["a", "b", "c", "d"], counting(calls), tmp_path)
    assert sum(calls) == 2


def test_a_damaged_file_and_missing_weights_are_named(tmp_path):
    build_word_bank(["road"], prompter(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WordError, match=r"words-\w+.safetensors: damaged .*; delete it, it is made again"):
        build_word_bank(["road"], prompter(), tmp_path)
    with pytest.raises(
        WordError, match=r"needs CLIP ViT-B/16's text encoder, no file given; get it with `hf download"
    ):
        load_prompter(VITB14)
    with pytest.raises(WordError, match=r"nowhere\.pt given; get it"):
        load_prompter(VITB14, Path("nowhere.pt"))
    Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_prompter(NANO, tmp_path / "tower.safetensors")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json or tower-tokenizer\.json beside"):
        load_prompter(NANO, tmp_path / "sub" / "tower.safetensors")


@pytest.mark.slow
def test_clip_takes_the_eighty_templates(tmp_path):
    torch.manual_seed(0)
    tower = ClipTextTower().eval()
    torch.save(tower.clip.state_dict(), tmp_path / "clip.pt")
    clip = load_prompter(VITB14, tmp_path / "clip.pt")
    assert len(clip.templates) == 80
    clip = replace(clip, templates=clip.templates[:4])  # eighty take a minute
    import open_clip

    prompts = [template.replace("{}", "cat") for template in clip.templates]
    with torch.inference_mode():
        encoded = tower.clip(open_clip.get_tokenizer("ViT-B-16")(prompts))  # open_clip's own pass
    mean = torch.nn.functional.normalize(encoded, dim=-1).mean(0)
    torch.testing.assert_close(clip.encode(["cat"])[0], mean / mean.norm(), rtol=1e-3, atol=1e-5)
