"""The public names of both packages: `dir` shows them, and importing a package imports none of them."""

import re
import subprocess
import sys
from pkgutil import resolve_name

import pytest

import ovsdino
import ovsdino_runtime
from ovsdino_runtime.base import errors
from tests.house.test_imports import SOURCE_ROOTS

PACKAGES = {"ovsdino": ovsdino, "ovsdino_runtime": ovsdino_runtime}
PLACES = {
    "ovsdino": {"OVSDINO": "network.model", "ModelConfig": "network.config", "PRESETS": "network.config"},
    "ovsdino_runtime": {"Segmenter": "segmenter", "Segmentation": "base.segmentation", "Stream": "stream"},
}


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_shown_and_are_what_their_module_has(package):
    module = PACKAGES[package]
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    for name, place in PLACES[package].items():
        assert getattr(module, name) is resolve_name(f"{package}.{place}:{name}")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_every_error_of_the_tree_is_public():
    tree = re.findall(r"\w+Error", errors.__doc__.partition("Packages")[0])
    defined = [name for name in vars(errors) if name.endswith("Error")]
    assert sorted(tree) == sorted(defined)
    assert set(defined) <= set(ovsdino_runtime.__all__)


def test_importing_a_package_imports_nothing_else():
    code = (
        f"import sys; sys.path[:0] = {SOURCE_ROOTS!r}; before = set(sys.modules)\n"
        "import ovsdino, ovsdino_runtime\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ovsdino", "ovsdino_runtime"]
