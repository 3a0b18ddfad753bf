"""Convert CLIP's tokenizer to a file that does not need open_clip."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import cast

from open_clip.tokenizer import bytes_to_unicode, default_bpe
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from ovsdino.network.clip_text import CONTEXT

START, END = "<start_of_text>", "<end_of_text>"
MERGES = 49152 - 256 - 2  # of the file's lines, that many are used, after one line of heading
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# What open_clip's cleaning (ftfy and html) does to the characters that people type or paste.
REPLACED = {
    "\u2018": "'",  # curly quotes
    "\u2019": "'",
    "\u201b": "'",
    "\u02bc": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\ufb00": "ff",  # ligatures
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&#39;": "'",
    **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width letters, digits and signs
}


def clip_tokenizer() -> Tokenizer:
    """Build CLIP's tokenizer from open_clip's merges; it truncates at 77 tokens and pads with 0.

    It equals open_clip's, except for text with a broken encoding, which open_clip repairs first.
    """
    with gzip.open(Path(default_bpe()), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    merges = [cast("tuple[str, str]", tuple(line.split())) for line in lines]
    characters = list(bytes_to_unicode().values())
    pieces = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges), START, END]
    numbers = {piece: number for number, piece in enumerate(pieces)}

    tokenizer = Tokenizer(BPE(numbers, merges, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.add_special_tokens([START, END])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            *(normalizers.Replace(old, new) for old, new in REPLACED.items()),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, numbers[START]), (END, numbers[END])]
    )
    tokenizer.enable_truncation(CONTEXT)
    tokenizer.enable_padding(pad_id=0, pad_token=pieces[0])
    return tokenizer
