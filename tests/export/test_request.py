"""The name of an exported bundle: results say by it which weights made them."""

from pathlib import Path

import pytest

from ovsdino_export.request import ExportRequest, check_target
from ovsdino_runtime.base.errors import OutputError


def test_a_bundle_of_own_weights_has_its_own_name(tmp_path: Path) -> None:
    assert check_target(ExportRequest(model="nano", out=tmp_path)) == tmp_path / "nano.ovs"
    assert (
        check_target(ExportRequest(model="nano", out=tmp_path, name="nano-mine"))
        == tmp_path / "nano-mine.ovs"
    )


@pytest.mark.parametrize("name", ["", "../nano", "a/b", ".hidden", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"--name .*: expected letters, digits"):
        check_target(ExportRequest(model="nano", out=tmp_path, name=name))
