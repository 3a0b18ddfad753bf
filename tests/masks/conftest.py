"""Small real things: networks of their libraries' classes, a tagger trained on the spot, a tiny WordNet."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

SENTENCES = [
    [("a", "DT"), ("cat", "NN"), ("on", "IN"), ("the", "DT"), ("grass", "NN"), (".", ".")],
    [("two", "CD"), ("dogs", "NNS"), ("run", "VBP"), ("with", "IN"), ("a", "DT"), ("ball", "NN")],
    [("a", "DT"), ("man", "NN"), ("holds", "VBZ"), ("a", "DT"), ("tennis", "NN"), ("racket", "NN")],
    [("the", "DT"), ("traffic", "NN"), ("light", "NN"), ("is", "VBZ"), ("red", "JJ"), (".", ".")],
    [("people", "NNS"), ("and", "CC"), ("a", "DT"), ("photo", "NN"), ("of", "IN"), ("sky", "NN")],
]
WORDS = sorted({word.lower() for sentence in SENTENCES for word, _ in sentence} - {"."})
# Sense keys as index.sense has them: lemma, number of the lexicographer file.
SENSES = (
    "cat 05, cat 18, dog 05, ball 06, ball 14, tennis 04, racket 06, light 06, light 19, traffic 14, "
    "traffic_light 10, person 03, man 18, grass 20, sky 17, photo 06, day 28, child 18, glass 06, glasses 06"
    ", woman 18, lady 18, sofa 06, couch 06"
)
SAME = {"couch": "sofa"}  # of one synset; each other sense is of its own
ABOVE = {"lady": "woman", "woman": "person", "man": "person"}  # hypernyms


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """A random Grounding DINO in a folder as `save_pretrained` makes it."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    folder = tmp_path_factory.mktemp("grounding-dino")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS, "##s"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
        ),
        text_config=BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
        d_model=32,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    model = GroundingDinoForObjectDetection(config)
    with torch.no_grad():  # so that words differ
        model.model.text_backbone.embeddings.word_embeddings.weight.mul_(50)
    model.save_pretrained(folder)
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        BertTokenizerFast.from_pretrained(folder),
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam_file(tmp_path_factory):
    """A random SAM of 64 px in the layout of the official checkpoints."""
    from ovsdino.masks.teachers.sam import SamShape, build_sam

    torch.manual_seed(0)
    shape = SamShape(
        width=16, depth=2, heads=2, patch=16, image_size=64, window=2, global_blocks=(1,), channels=32
    )
    state = {name: torch.randn(tensor.shape) * 0.2 for name, tensor in build_sam(shape).state_dict().items()}
    file = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    torch.save(state, file)
    return file


@pytest.fixture(scope="session")
def nltk_data(tmp_path_factory):
    """NLTK's data as `nltk.download` lays it out: a tagger trained on five sentences, WordNet as a zip."""
    from nltk.tag.perceptron import PerceptronTagger

    folder = tmp_path_factory.mktemp("nltk_data")
    tagger = PerceptronTagger(load=False)
    tagger.train(SENTENCES * 3, nr_iter=8)
    place = folder / "taggers" / "averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    parts = {"weights": tagger.model.weights, "tagdict": tagger.tagdict, "classes": sorted(tagger.classes)}
    for part, content in parts.items():
        (place / f"averaged_perceptron_tagger_eng.{part}.json").write_text(json.dumps(content))
    (folder / "corpora").mkdir()
    with zipfile.ZipFile(folder / "corpora" / "wordnet.zip", "w") as archive:
        index, data = wordnet_files()
        archive.writestr("wordnet/index.sense", index)
        archive.writestr("wordnet/data.noun", data)
        archive.writestr("wordnet/noun.exc", "children child\ngeese goose\n")
    return folder


def wordnet_files() -> tuple[str, str]:
    """SENSES as index.sense and data.noun have them."""
    senses = [entry.split() for entry in SENSES.split(", ")]
    lemmas = [lemma for lemma, _ in senses]
    offset = {lemma: f"{100 + lemmas.index(lemma):08d}" for lemma in lemmas}  # of the first sense
    index, data = [], ["  1 This software and database is being provided to you"]
    for place, (lemma, file) in enumerate(senses):
        number = lemmas[: place + 1].count(lemma)
        synset = offset[SAME.get(lemma, lemma)] if number == 1 else f"{100 + place:08d}"
        index.append(f"{lemma}%1:{file}:00:: {synset} {number} 0")
        up = f"001 @ {offset[ABOVE[lemma]]} n 0000" if lemma in ABOVE and number == 1 else "000"
        if lemma not in SAME:
            data.append(f"{synset} {file} n 01 {lemma} 0 {up} | a gloss; @ 00000100 n 0000 is none")
    return "\n".join([*sorted(index), "run%2:38:00:: 00000002 1 0"]), "\n".join(data)


CAPTIONS = {
    "a.jpg": ["a cat on the grass .", "A man holds a tennis racket."],
    "b.jpg": ["two dogs run with a ball", "people and a photo of sky", "the traffic light is red ."],
    "sub/c.png": ["a cat and a man", "  "],
    "d.jpg": ["a dog on the grass", "a tennis racket and a traffic light"],
}


@pytest.fixture
def photos(tmp_path):
    """Four photos, one of them broken, and their captions."""
    folder = tmp_path / "photos"
    random = np.random.default_rng(0)
    for place, name in enumerate(CAPTIONS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48 + 8 * place, 40)).save(folder / name)
    (folder / "d.jpg").write_bytes((folder / "d.jpg").read_bytes()[:300])
    return folder


@pytest.fixture
def captions(tmp_path, write_captions):
    """Their caption file, in COCO's format."""
    return write_captions(tmp_path / "captions.json", CAPTIONS)


@pytest.fixture(scope="session")
def write_captions():
    """Write photos' captions in COCO's format."""

    def write(file, captions):
        images = [{"id": number, "file_name": name} for number, name in enumerate(captions, 7)]
        said = [
            {"id": 0, "image_id": image["id"], "caption": text}
            for image in images
            for text in captions[image["file_name"]]
        ]
        file.write_text(json.dumps({"images": images, "annotations": said}))
        return file

    return write
