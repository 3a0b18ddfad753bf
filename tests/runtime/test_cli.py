import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import ovsdino_runtime
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.cli import run, vocabularies
from ovsdino_runtime.files.result_writer import name_results

SOURCE = Path(ovsdino_runtime.__file__).parents[1]


@pytest.fixture
def invoke(shared_bundle, tmp_path):
    """Run the command with the tiny model, into `tmp_path / "out"`."""

    def invoke(*arguments, model=shared_bundle.path, out=tmp_path / "out"):
        command = [*map(str, arguments), "--model", str(model), "--out", str(out), "--threads", "1"]
        return CliRunner().invoke(run, command)

    return invoke


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_photo_gets_three_files_and_a_table(invoke, flag_file, flag, tmp_path):
    result = invoke(flag_file, "--classes", "red, green, blue")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "out") == ["flag.json", "flag_labels.png", "flag_overlay.png"]
    record = json.loads((tmp_path / "out" / "flag.json").read_text())
    assert record["photo"] == "flag.png"
    assert sum(region["coverage"] for region in record["regions"]) == pytest.approx(1, abs=1e-5)
    with Image.open(tmp_path / "out" / "flag_labels.png") as labels:
        assert np.asarray(labels).shape == flag.shape[:2]
        assert set(np.unique(labels)) == {0, 1, 2}
    lines = result.output.splitlines()
    assert lines[0] == f"{flag_file} (150x90)"
    assert {line.split()[0] for line in lines[1:4]} == {"red", "green", "blue"}
    assert "tiny, ONNX Runtime" in lines[4]
    assert "flag_overlay.png" in lines[5]


def test_quiet_says_nothing(invoke, flag_file):
    assert invoke(flag_file, "--classes", "red", "--quiet").output == ""


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        ("json", ["flag.json"]),
        ("labels, overlay", ["flag_labels.png", "flag_overlay.png"]),
        ("json,json", ["flag.json"]),
    ],
)
def test_only_what_is_asked_for_is_written(invoke, flag_file, tmp_path, save, expected):
    assert invoke(flag_file, "--classes", "red", "--save", save).exit_code == 0
    assert files(tmp_path / "out") == expected


def test_classes_from_a_file_and_background(invoke, flag_file, tmp_path):
    (tmp_path / "words.txt").write_text("red\n# no\nyellow|green\n")
    result = invoke(flag_file, "--classes", f"@{tmp_path / 'words.txt'}", "--background", "0.5")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "flag.json").read_text())
    assert record["classes"] == ["background", "red", "yellow"]
    assert record["background"] == 0.5


@pytest.mark.parametrize(
    ("options", "count", "background"),
    [([], 21, 0.5), (["--background", "none"], 20, None), (["--background", ".1"], 21, 0.1)],
)
def test_vocabularies_know_their_background(invoke, flag_file, tmp_path, options, count, background):
    assert invoke(flag_file, "--vocabulary", "voc21", *options).exit_code == 0
    record = json.loads((tmp_path / "out" / "flag.json").read_text())
    assert len(record["classes"]) == count
    assert record["background"] == background


def test_others_are_background(invoke, flag_file, tmp_path):
    result = invoke(flag_file, "--classes", "red", "--background-classes", "green, blue")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "flag.json").read_text())
    assert record["classes"] == ["background", "red"]
    assert record["background_classes"] == ["green", "blue"]
    assert {region["name"] for region in record["regions"]} == {"background", "red"}


def test_templates(invoke, flag_file):
    assert invoke(flag_file, "--classes", "red", "--templates", "simple").exit_code == 0
    assert invoke(flag_file, "--classes", "red", "--templates", "red {} red").exit_code == 0


def test_photos_of_the_same_name_do_not_overwrite_each_other(invoke, flag_file, flag, tmp_path):
    other = tmp_path / "other" / "flag.jpg"
    other.parent.mkdir()
    Image.fromarray(flag[:50]).save(other)
    assert invoke(flag_file, other, flag_file, "--classes", "red", "--save", "json").exit_code == 0
    assert files(tmp_path / "out") == ["flag-2.json", "flag.json"]
    assert json.loads((tmp_path / "out" / "flag-2.json").read_text())["height"] == 50


def test_result_names():
    names = ("a/cat.jpg", "b/Cat.png", "cat-2.png", "c/cat.gif", "a/cat.jpg")
    assert list(name_results([Source("photo", name) for name in names]).values()) == [
        "cat",
        "Cat-2",
        "cat-2-2",
        "cat-3",
    ]


def damage(bundle, how):
    if how == "byte":
        file = bundle.path / "text.onnx"
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    elif how == "file":
        (bundle.path / "tokenizer.json").unlink()
    else:
        manifest = bundle.path / "bundle.json"
        record = json.loads(manifest.read_text())
        record |= {"key": {"colour": 1}, "schema": {"schema_version": 9}}[how]
        manifest.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("byte", "text.onnx: changed or damaged"),
        ("file", "tokenizer.json: missing"),
        ("key", "unknown key colour"),
        ("schema", "schema_version 9"),
    ],
)
def test_a_damaged_bundle_is_refused(invoke, flag_file, bundle, tmp_path, how, message):
    damage(bundle, how)
    check_refusal(invoke(flag_file, "--classes", "red", model=bundle.path), message, tmp_path)


def check_refusal(result, message, tmp_path):
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FLAG"], "give either --classes, such as 'cat, grass, sky', or --vocabulary"),
        (["FLAG", "--classes", "red", "--vocabulary", "voc20"], "give either --classes"),
        (["FLAG", "--classes", ""], "no class is given"),
        (["FLAG", "--classes", "red, Red"], "class 2 has the name of class 1: 'Red'"),
        (["FLAG", "--classes", "@nothing.txt"], "nothing.txt: cannot be read"),
        (["FLAG", "--classes", "background", "--background", "0"], "the only class is 'background'"),
        (
            ["FLAG", "--classes", "red", "--background-classes", "sky", "--background", "none"],
            "--background-classes belong to the background: leave out --background none",
        ),
        (["FLAG", "--vocabulary", "imagenet"], "unknown vocabulary 'imagenet': expected one of ade150"),
        (["FLAG", "--classes", "red", "--templates", "none"], "unknown templates 'none'"),
        (
            ["FLAG", "--classes", "red", "--background", "2"],
            "background '2' is neither 'none' nor a number in 0..1",
        ),
        (
            ["FLAG", "--classes", "red", "--save", "video"],
            "'video' is not one of overlay, labels, json, rle, geojson, gpkg, coco, yolo, labelme, voc",
        ),
        (
            ["FLAG", "--classes", "red", "--device", "tpu"],
            "device 'tpu' with engine 'onnxruntime': expected cpu with onnxruntime, ",
        ),
        (["FLAG", "--classes", "red", "--precision", "fp16"], "has no fp16 vision graph"),
        (["nothing.jpg", "--classes", "red"], "nothing.jpg: no such file"),
        (["TEXT", "--classes", "red"], "text.jpg: not a photo"),
        (["TEXT", "nothing.jpg", "--classes", "red"], "not a photo"),
        (["FOLDER", "--classes", "red"], "empty: no photos in it"),
    ],
)
def test_bad_input_is_refused_in_one_line(invoke, flag_file, tmp_path, arguments, message):
    (tmp_path / "text.jpg").write_text("no photo")
    places = {"FLAG": flag_file, "TEXT": tmp_path / "text.jpg", "FOLDER": tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    result = invoke(*[places.get(argument, argument) for argument in arguments])
    if len([a for a in arguments if a in ("TEXT", "nothing.jpg")]) == 2:  # a line for each photo
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "out").exists()
    else:
        check_refusal(result, message, tmp_path)


def test_an_unknown_model_is_refused(invoke, flag_file, tmp_path):
    result = invoke(flag_file, "--classes", "red", model="giant")
    check_refusal(result, "giant: neither a packaged model nor a bundle; packaged models: ", tmp_path)


def test_an_output_directory_that_cannot_be_written_is_refused(invoke, flag_file, tmp_path):
    result = invoke(flag_file, "--classes", "red", out=flag_file / "deep")
    check_refusal(result, "flag.png is not a directory; choose another --out", tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_output_directory_is_refused(invoke, flag_file, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    result = invoke(flag_file, "--classes", "red", out=tmp_path / "closed" / "new")
    check_refusal(result, "cannot be written to: Permission denied", tmp_path)


def test_one_bad_photo_does_not_stop_the_others(invoke, flag_file, tmp_path):
    (tmp_path / "torn.png").write_bytes(flag_file.read_bytes()[:100])
    result = invoke("nothing.jpg", flag_file, tmp_path / "torn.png", "--classes", "red", "--save", "json")
    assert result.exit_code == 1
    assert files(tmp_path / "out") == ["flag.json"]
    errors = result.stderr.splitlines()
    assert errors[0] == "Error: nothing.jpg: no such file"
    assert errors[1].startswith(f"Error: {tmp_path / 'torn.png'}: broken photo")
    assert errors[2] == f"1 done, 2 not: nothing.jpg, {tmp_path / 'torn.png'}"


def test_vocabularies_are_listed():
    listing = CliRunner().invoke(vocabularies).output.splitlines()
    assert len(listing) == 12
    assert listing[0].split()[:3] == ["ade150", "150", "classes"]
    words = CliRunner().invoke(vocabularies, ["camvid11"]).output.splitlines()
    assert words[0].startswith("# camvid11: ")
    assert words[4] == "road|street"
    assert CliRunner().invoke(vocabularies, ["camvid"]).exit_code == 2


def command(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    code = "from ovsdino_runtime.cli import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        check=False,
    )


def test_as_a_process_from_another_directory(shared_bundle, flag_file, tmp_path):
    done = command("flag.png", "--classes", "red, blue", "--model", shared_bundle.path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert files(tmp_path / "ovsdino-out") == ["flag.json", "flag_labels.png", "flag_overlay.png"]
    again = command("flag.png", "--model", shared_bundle.path, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("Error: give either --classes")


def test_help_imports_click_alone():
    code = """
import sys
for name in ("numpy", "PIL", "tokenizers", "onnxruntime", "torch", "importlib.metadata"):
    sys.modules[name] = None
from ovsdino_runtime.cli import run
run(["--help"])
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "PHOTO..." in done.stdout


@pytest.mark.parametrize("options", [(), ("--classes", "car, road"), ("--vocabulary", "voc20")])
def test_the_packaged_photo_needs_no_file(tmp_path, options):
    result = CliRunner().invoke(run, ["--example", *options, "--out", str(tmp_path), "--threads", "1"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "street.json").read_text())
    found = {region["name"] for region in record["regions"]}
    assert {"car", "bus" if options == () else "car"} <= found
