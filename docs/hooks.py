"""Add files outside ``docs/`` to the site, if its pages link to them.

Links are written as they work in the repository (``../recipes/nano/README.md``). Markdown files keep their
path; other files become pages below ``source/`` that show their text.

With ``OVSDINO_LIVE_PAGE=1`` the site also holds the page of `ovsdino-export --web`, which needs npm and a
network, and the home page shows it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/*/README.md"))
ALWAYS = (  # in the navigation, whether a page links to them or not
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *RECIPES,
)
LIVE = "live"  # the folder of the page in the site
LIVE_MARK = "<!-- live page -->"
LIVE_FRAME = f"""Try it here. Photos stay in your browser; the model (31 MB) is loaded with the first one.

<iframe src="{LIVE}/index.html" title="ovsdino in the browser" loading="lazy" class="live"></iframe>"""
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE_IN_TABLE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")  # GitHub needs bars in code escaped, MkDocs does not
LANGUAGES = {
    "": "docker",
    ".jetson": "docker",
    ".py": "python",
    ".cfg": "ini",
    ".json": "json",
    ".toml": "toml",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside the folder of pages that a page links to."""
    waiting = [(f"{DOCS}/{page.src_uri}", page.content_string) for page in files.documentation_pages()]
    known = {path for path, _ in waiting}
    waiting += [(path, add_page(files, config, path)) for path in ALWAYS]
    while waiting:
        origin, text = waiting.pop()
        for target in (resolve(origin, match[2]) for match in LINK.finditer(FENCE.sub("", text))):
            if target in known or is_page(target) or not (ROOT / target).is_file():
                continue
            known.add(target)
            waiting.append((target, add_page(files, config, target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links of the repository into links of the site; show the live page if the site holds it."""
    markdown = markdown.replace(LIVE_MARK, LIVE_FRAME if has_live_page() else "")
    here = page.file.src_uri
    origin = repository_path(here)

    def to_site(match: re.Match[str]) -> str:
        target = resolve(origin, match[2])
        if is_page(origin) and is_page(target):
            return match[0]
        place = posixpath.relpath(site_path(target), posixpath.dirname(here))
        return f"{match[1]}{place}{match[3] or ''}{match[4]}"

    return LINK.sub(to_site, CODE_IN_TABLE.sub(lambda code: code[0].replace(r"\|", "|"), markdown))


def on_post_build(config: MkDocsConfig) -> None:
    """Write the live page into the site."""
    if has_live_page():
        from ovsdino_export.web.page import write_page
        from ovsdino_runtime.bundle.bundle import load_bundle
        from ovsdino_runtime.bundle.models import packaged_models

        write_page(load_bundle(packaged_models()["nano"]), Path(config.site_dir) / LIVE)


def has_live_page() -> bool:
    """Say whether the site is to hold the live page."""
    return os.environ.get("OVSDINO_LIVE_PAGE") == "1"


def add_page(files: Files, config: MkDocsConfig, path: str) -> str:
    """Add a file of the repository as a page; return its text."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if not path.endswith(".md"):
        language = LANGUAGES.get(Path(path).suffix, "text")
        text = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n```{language}\n{text}```\n"
    if files.get_file_from_path(site_path(path)) is None:
        files.append(File.generated(config, site_path(path), content=text))
    return text


def resolve(origin: str, link: str) -> str:
    """Return the path in the repository that a link points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def is_page(path: str) -> bool:
    """Tell whether a path in the repository lies in ``docs/``."""
    return path.startswith(f"{DOCS}/")


def site_path(path: str) -> str:
    """Return the path in the site of a path in the repository."""
    if is_page(path):
        return path.removeprefix(f"{DOCS}/")
    return path if path.endswith(".md") else f"source/{path}.md"


def repository_path(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    if (ROOT / DOCS / page).is_file():
        return f"{DOCS}/{page}"
    return page.removeprefix("source/").removesuffix(".md") if page.startswith("source/") else page
