"""Words for tokenizers of tiny models: two that a tokenizer does not know would be the same to it."""

import re

from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names

# Every part of every word of the packaged vocabularies, and some that tests and benchmarks ask for.
PACKAGED = {
    part
    for name in vocabulary_names()
    for words in load_vocabulary(name).classes
    for word in words
    for part in re.findall(r"\w+|[^\w\s]+", word.lower())
} | {"cat", "dog", "forklift", "alone", "new", "thing", *map(str, range(20))}
