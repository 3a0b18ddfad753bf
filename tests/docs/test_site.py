"""The site's own parts: links that leave the folder of pages, and a navigation that forgets none."""

import importlib.util
import sys

import pytest
import yaml

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def config():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("page", "link", "path", "place"),
    [
        ("docs/start.md", "runtime.md", "docs/runtime.md", "runtime.md"),
        ("docs/api/runtime.md", "../export.md", "docs/export.md", "export.md"),
        ("docs/systems.md", "../recipes/nano/README.md", "recipes/nano/README.md", "recipes/nano/README.md"),
        ("docs/deploy.md", "../docker/Dockerfile", "docker/Dockerfile", "source/docker/Dockerfile.md"),
        ("recipes/nano/README.md", "../../docs/nano.md", "docs/nano.md", "nano.md"),
    ],
)
def test_a_link_of_the_repository_is_one_of_the_site(hooks, page, link, path, place):
    assert hooks.resolve(page, link) == path
    assert hooks.site_path(path) == place
    assert hooks.repository_path(place) == path


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](b.md#c) and ![d](e/f.png)", ["b.md", "e/f.png"]),
        ("[a](https://x.org/y.md) [b](#here) [c](mailto:d)", []),
        ("```\n[a](b.md)\n```\n", []),
    ],
)
def test_what_a_link_is(hooks, text, links):
    assert [match[2] for match in hooks.LINK.finditer(hooks.FENCE.sub("", text))] == links


def pages(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_is_in_the_navigation(config):
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    recipes = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/*/README.md")}
    assert set(pages(config["nav"])) == written | recipes | {"CONTRIBUTING.md", "CHANGELOG.md"}


def test_the_site_asks_nobody_for_fonts(config):
    assert config["theme"]["font"] is False


def test_continuous_integration_builds_it_strictly():
    (line,) = [
        line for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if "mkdocs build" in line
    ]
    assert "--strict" in line
    assert "-q" not in line  # mkdocs counts only the warnings that it prints
