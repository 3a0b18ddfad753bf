"""The Dockerfiles, read and not built: what they copy is there, and what they install is ours."""

import re
import shlex

import pytest

from tests.docs.pages import ROOT
from tests.docs.programs import EXTRAS, check_pip

FILES = sorted((ROOT / "docker").glob("Dockerfile*"))
INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}
CONTINUED = re.compile(r"\\\n\s*")


def instructions(text: str) -> list[tuple[str, str]]:
    """Every instruction as (name, the rest), without remarks, lines joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = CONTINUED.sub(" ", "\n".join(lines) + "\n")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def commands(rest: str) -> list[tuple[str, ...]]:
    return [tuple(shlex.split(part)) for part in rest.split("&&")]


def problems(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    found, stages, declared = [], set(), set()
    for name, rest in instructions(text):
        if name not in INSTRUCTIONS:
            found.append(f"unknown instruction {name}")
        if name == "ARG":
            declared.add(rest.partition("=")[0])
        if name == "FROM":
            stages |= {rest.split(" AS ")[1]} if " AS " in rest else set()
            found += [
                f"{used} is no ARG" for used in re.findall(r"\$\{(\w+)\}", rest) if used not in declared
            ]
        if name == "COPY":
            found += copy_problems(shlex.split(rest), stages)
        if name == "RUN":
            found += [problem for words in commands(rest) for problem in pip_problems(words, text)]
    return found


def copy_problems(words: list[str], stages: set[str]) -> list[str]:
    if words[0].startswith("--from="):
        stage = words[0].removeprefix("--from=")
        return [] if stage in stages else [f"no stage {stage}"]
    return [f"{source} is not there" for source in words[:-1] if not (ROOT / source).exists()]


def pip_problems(words: tuple[str, ...], text: str) -> list[str]:
    if not words[0].endswith("pip"):
        return []
    said = re.findall(r"(?:^ARG|--build-arg) (\w+)=([\w,]+)", text, re.MULTILINE)  # and in the remarks
    try:
        for name, value in said or [("", "")]:
            filled = " ".join(words[1:]).replace(f"${{{name}}}", value)
            check_pip(("pip", *re.sub(r"\$\{\w+\}", "cpu", filled).split()))
    except AssertionError as error:
        return [str(error)]
    return []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dockerfile_fits_the_repository(file):
    text = file.read_text(encoding="utf-8")
    assert not problems(text)
    assert "not built here" in text.splitlines()[0]


def test_there_is_one_for_each_kind_of_machine():
    assert [file.name for file in FILES] == ["Dockerfile", "Dockerfile.jetson"]
    jetson = FILES[1].read_text(encoding="utf-8")
    installed = [words for name, rest in instructions(jetson) if name == "RUN" for words in commands(rest)]
    (pip,) = [words for words in installed if words[0] == "pip"]
    assert ".[cpu,video]" in pip  # TensorRT is the image's own, torch is not needed
    assert {"cpu", "video", "cuda", "tensorrt"} <= EXTRAS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("COPY runtime runtime", "COPY runtme runtime"), "runtme is not there"),
        (("--from=builder", "--from=bilder"), "no stage bilder"),
        (("ARG ENGINE=cuda", "ARG ENGINE=gpu"), "setup.cfg has no extra ['gpu']"),
        (("cuda:${CUDA_VERSION}", "cuda:${CUDA}"), "CUDA is no ARG"),
    ],
)
def test_a_fault_is_found(change, problem):
    text = FILES[0].read_text(encoding="utf-8")
    assert change[0] in text
    assert any(problem in found for found in problems(text.replace(*change)))
