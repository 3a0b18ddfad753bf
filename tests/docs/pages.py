"""The pages that people read, and the code in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("recipes/*/README.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "sh", "shell", "console"}
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
ASSIGNMENT = re.compile(r"\w+=")
SEPARATORS = {"&&", "||", ";", "|", "&"}


@dataclass(frozen=True)
class Command:
    """One command of a page, without the shell around it."""

    page: str
    line: str  # as it is written
    words: tuple[str, ...]  # without assignments before the program

    @property
    def program(self) -> str:
        return self.words[0]


def read_page(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_blocks(page: str) -> list[tuple[str, str]]:
    """Every block of code as (language, code), in order."""
    return FENCE.findall(read_page(page))


def commands_of(page: str, block: str) -> list[Command]:
    """Every command of a shell block, in order."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [command for line in lines for command in split(page, line)]


def shell_commands(page: str) -> list[Command]:
    """Every command in a page's shell blocks, in order."""
    blocks = [code for language, code in code_blocks(page) if language in SHELL]
    return [command for block in blocks for command in commands_of(page, block)]


def named_commands(page: str, programs: set[str]) -> list[Command]:
    """Every command that the text names between backticks: a known program and what is behind it."""
    spans = SPAN.findall(FENCE.sub("", read_page(page)))
    begun = (span for span in spans if span.split()[0] in programs and len(span.split()) > 1)
    return [command for span in begun for command in split(page, span.replace(r"\|", "|"))]


def split(page: str, line: str) -> list[Command]:
    """Split a line of a shell at ``&&`` and its like; remarks and assignments fall away."""
    tokens = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    tokens.whitespace_split = True
    found: list[list[str]] = [[]]
    for token in tokens:
        if token in SEPARATORS:
            found.append([])
        elif found[-1] or not ASSIGNMENT.match(token):
            found[-1].append(token)
    return [Command(page, line.strip(), tuple(words)) for words in found if words]
