"""Documentation: prose wraps at 100 characters, and a path of the code that a page names exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "docker", "docs", "examples", "export", "ovsdino", "recipes", "runtime", "tests")
MAX_LINE = 100

# Reports are written by programs, and keep the paths of their day.
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md", "examples/**/*.md")
    for page in ROOT.glob(pattern)
    if "measurements" not in page.parts
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page outside of code blocks and tables, numbered from 1."""
    in_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.lstrip().startswith(("|", "![", "<")):
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_prose_wraps(page):
    too_long = [
        f"{page.name}:{number} has {len(line)} characters"
        for number, line in prose(page)
        if len(line) > MAX_LINE and " " in re.sub(r"\]\([^)]*\)|`[^`]*`", "", line[MAX_LINE:])
    ]
    assert not too_long


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_that_a_page_names_exists(page):
    code = rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+\.(?:py|json|toml|txt|yml|md))`"
    named = sorted(set(re.findall(code, page.read_text(encoding="utf-8"))))
    assert not [path for path in named if not (ROOT / path).exists()]
