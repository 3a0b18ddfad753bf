"""Stage 3 of the text tower: reduce MiniLM's word pieces to those that the phrases need.

Usage: python recipes/nano/text_tokenizer.py --work WORK --out OUT
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click
from text_phrases import Phrase, read_phrases
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

FOUND = click.Path(path_type=Path, exists=True)
PIECES = 14_000  # V; decides the size of the token table
CONTEXT = 48  # [tokens]
PAD, UNKNOWN = "[PAD]", "[UNK]"
# What a piece is worth to the vocabulary: class names and captions hold the words that people type.
WORTH = {
    "classes": 50,
    "lvis": 50,
    "captions": 2,
    "wordnet": 1,
    "templates": 0.05,
    "combinations": 0.05,
    "hybrids": 0,
}


def piece_worth(teacher: Tokenizer, phrases: list[Phrase]) -> Counter[str]:
    """Weight each of the teacher's pieces by its use in the training phrases."""
    worth: Counter[str] = Counter()
    trained = [phrase for phrase in phrases if not phrase.withheld]
    for phrase, encoded in zip(trained, teacher.encode_batch([p.text for p in trained]), strict=True):
        for piece in encoded.tokens:
            worth[piece] += WORTH[phrase.source] * phrase.weight
    return worth


def choose_pieces(teacher: Tokenizer, worth: Counter[str]) -> list[str]:
    """Choose padding, unknown, all single characters (to spell any Latin word), then pieces by weight."""
    known = teacher.get_vocab()
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    spelled = [piece for c in characters for piece in (c, f"##{c}") if piece in known]
    kept = dict.fromkeys([PAD, UNKNOWN, *spelled])
    for piece, _ in worth.most_common():
        if len(kept) == PIECES:
            break
        if not piece.startswith("["):
            kept[piece] = None
    return list(kept)


def make_tokenizer(pieces: list[str]) -> Tokenizer:
    """Build a lower-case WordPiece tokenizer without special pieces; it truncates to the context and pads."""
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=60))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(pad_id=vocabulary[PAD], pad_token=PAD)
    return tokenizer


@click.command()
@click.option("--work", type=FOUND, required=True, help="Folder of stages 1 and 2.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the finished tower.")
def main(work: Path, out: Path) -> None:
    """Write OUT/nano-tokenizer.json."""
    teacher = Tokenizer.from_file(str(work / "teacher" / "tokenizer.json"))
    teacher.no_padding()
    worth = piece_worth(teacher, read_phrases(work / "phrases.jsonl"))
    pieces = choose_pieces(teacher, worth)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "nano-tokenizer.json"
    path.write_text(json.dumps(json.loads(make_tokenizer(pieces).to_str()), separators=(",", ":")))
    covered = sum(worth[piece] for piece in pieces) / (sum(worth.values()) - worth["[CLS]"] - worth["[SEP]"])
    click.echo(f"{len(pieces)} of {len(worth)} pieces used, {covered:.2%} of the worth")


if __name__ == "__main__":
    main()
