"""`ovsdino-export --web`: what is written, what is refused, and what stays as it was."""

import base64
import gzip
import json
import os
import re

import pytest
from click.testing import CliRunner

from ovsdino_export.cli import export
from ovsdino_export.web import onnxruntime_web
from ovsdino_export.web.page import PAGE, WORKER, program_source
from tests.runtime.dinov3seg_bundle import colour_bundle


def run(*arguments):
    result = CliRunner().invoke(export, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(bundle, folder, package, *more):
    return run("--bundle", bundle.path, "--web", folder, "--web-runtime", package, *more)


def refused(result):
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr.strip()


def read_settings(folder):
    text = (folder / "data" / "settings.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(r"receiveSettings\((.*)\);\n", text)[1])


def read_files(folder, group):
    """The files of a group, put together from their scripts as the page does it."""
    parts = {}
    for script in read_settings(folder)["scripts"][group]:
        text = (folder / "data" / script["file"]).read_text(encoding="utf-8")
        name, part, data = re.fullmatch(r'receiveAsset\("(.*)",(\d+),"(.*)"\);\n', text).groups()
        assert script["bytes"] == len(data)
        parts.setdefault(name, []).append((int(part), base64.b64decode(data)))
    return {
        name: gzip.decompress(b"".join(data for _, data in sorted(found))) for name, found in parts.items()
    }


def test_the_page_holds_the_bundle_and_the_engine_unchanged(bundle, package, tmp_path, monkeypatch):
    monkeypatch.setattr("ovsdino_export.web.page.PART_BYTES", 300)  # several parts a file
    folder = tmp_path / "site" / "page"
    result = write(bundle, folder, package)
    assert result.exit_code == 0, result.output
    assert f"-> {folder / 'index.html'}" in result.output
    names = {path.name for path in folder.iterdir()}
    assert names == {*PAGE, "program.js", "LICENSES.txt", "data"}
    model = read_files(folder, "model")
    assert set(model) == {"vision.onnx", "text.onnx", "tokenizer.json"}
    assert all(model[name] == bundle.file(name).read_bytes() for name in model)
    for provider, files in onnxruntime_web.FILES.items():
        expected = {name: f"content of {file}".encode() for name, file in files.items()}
        assert read_files(folder, provider) == expected
    assert set(read_files(folder, "golden")) == {"golden.image", "golden.features"}
    settings = read_settings(folder)
    assert settings["grid"] == [8, 8]
    assert settings["head"] == {"scale": 10.0, "bias": -2.5, "background": 0.5}
    assert settings["refine"] is None
    listed = {script["file"] for group in settings["scripts"].values() for script in group}
    assert {path.name for path in (folder / "data").iterdir()} == {"settings.js", *listed}
    assert "MIT License" in (folder / "LICENSES.txt").read_text(encoding="utf-8")
    assert folder.stat().st_mode & 0o005 == 0o005  # a web server of another user may read it


def test_a_page_is_replaced_only_if_asked_and_anything_else_never(bundle, package, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()  # empty: nothing is lost
    assert write(bundle, folder, package).exit_code == 0
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    message = refused(write(bundle, folder, package))
    assert message == f"Error: {folder}: exists already; choose another --web, or give --overwrite"
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before
    (folder / "old").write_text("of the page before")
    assert write(bundle, folder, package, "--overwrite").exit_code == 0
    assert not (folder / "old").exists()

    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("keep me")
    message = refused(write(bundle, home, package, "--overwrite"))
    assert message == f"Error: {home}: exists and is no page; it is not replaced, choose another --web"
    assert [path.name for path in home.iterdir()] == ["letter.txt"]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []  # no staging is left


def test_another_package_is_refused_and_nothing_is_written(bundle, package, tmp_path):
    package.write_bytes(package.read_bytes() + b"more")
    folder = tmp_path / "page"
    message = refused(write(bundle, folder, package))
    assert message.startswith(f"Error: {package} is not onnxruntime-web 1.30.0 as published: sha512 ")
    assert not folder.exists()
    message = refused(write(bundle, folder, tmp_path / "missing.tgz"))
    assert "missing.tgz: cannot be read: No such file" in message
    message = refused(run("--web-runtime", package))
    assert message == "Error: --web-runtime is for a page: add --web DIR"


def put_npm(folder, script, monkeypatch):
    """Put a program npm on the path."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_npm_is_asked_once_and_what_it_brings_is_checked(bundle, package, cache, tmp_path, monkeypatch):
    count = tmp_path / "count"
    script = f'echo "$@" >> {count}; for last; do :; done; cp {package} "$last"'
    put_npm(tmp_path / "bin", script, monkeypatch)
    for name in ("first", "second"):
        assert run("--bundle", bundle.path, "--web", tmp_path / name).exit_code == 0
    (call,) = count.read_text().splitlines()
    assert call.startswith("pack onnxruntime-web@1.30.0 --silent --pack-destination ")
    kept = cache / "web" / "onnxruntime-web-1.30.0.tgz"
    assert kept.read_bytes() == package.read_bytes()

    kept.write_bytes(b"damaged")  # is fetched again
    assert run("--bundle", bundle.path, "--web", tmp_path / "third").exit_code == 0
    kept.unlink()
    package.write_bytes(b"of somebody else")
    message = refused(run("--bundle", bundle.path, "--web", tmp_path / "fourth"))
    assert "is not onnxruntime-web 1.30.0 as published" in message
    assert not kept.exists()
    assert not (tmp_path / "fourth").exists()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a shell script")
def test_a_machine_without_a_network_or_npm_is_told_what_to_do(bundle, tmp_path, monkeypatch):
    put_npm(tmp_path / "bin", "echo 'npm error code ENOTFOUND' >&2; exit 1", monkeypatch)
    cure = (
        "run `npm pack onnxruntime-web@1.30.0` where there is a network, and give the file with --web-runtime"
    )
    message = refused(run("--bundle", bundle.path, "--web", tmp_path / "page"))
    assert message == f"Error: npm pack onnxruntime-web@1.30.0: npm error code ENOTFOUND; {cure}"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    message = refused(run("--bundle", bundle.path, "--web", tmp_path / "page"))
    assert message == (
        f"Error: npm, which fetches onnxruntime-web, is not installed: install Node.js, or {cure}"
    )


def test_no_name_of_the_program_is_taken_twice():
    """The files are joined: a second function of a name would silently replace the first."""
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", program_source(), re.MULTILINE)
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_every_file_of_the_program_is_joined():
    from ovsdino_export.web import page

    folder = page.resources.files("ovsdino_export") / "web" / "worker"
    assert {file.name for file in folder.iterdir()} == set(WORKER)


def test_a_model_with_a_decoder_is_refused_and_nothing_is_written(package, tmp_path):
    result = write(colour_bundle(tmp_path), tmp_path / "page", package)
    assert "a model with a decoder (dinov3.seg) does not run in the browser yet" in refused(result)
    assert not (tmp_path / "page").exists()
