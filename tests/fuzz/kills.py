"""Kill programs at random moments, run them again, and compare with runs that nobody killed.

python -m tests.fuzz.kills --kills 200 --seed 1
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import click

from tests.fuzz.programs import NETWORKS, PROGRAMS, Program, make_inputs, preload, start
from tests.fuzz.snapshot import find_torn, is_same, snapshot

PATIENCE = 600.0  # [s] for one run
STALE = 1.1  # [s] after which a temporary file of a dead process is removed
EARLY = 0.15  # share of the kills at any moment; the others come after the first file was written


@dataclass(frozen=True)
class Reference:
    """What runs do that nobody kills."""

    files: dict[str, object]  # of the folder of the case, those that are the same in every run
    names: frozenset[str]  # of all
    begin: float  # [s] until something is written
    end: float  # [s]


def measure(program: Program, inputs: Path, folder: Path) -> Reference:
    """Run a program twice."""
    runs, begins, ends = [], [], []
    for number in range(2):
        case = folder / f"whole{number}"
        begin, end = _run_whole(program, inputs, case)
        begins.append(begin)
        ends.append(end)
        runs.append(_files(case))
        shutil.rmtree(case)
    first, second = runs
    names = frozenset(first.keys() & second.keys())
    same = {name: first[name] for name in names if is_same(first[name], second[name])}
    return Reference(same, names, min(begins), min(ends))


def kill_once(
    program: Program, inputs: Path, case: Path, *, reference: Reference, random: Random
) -> list[str] | None:
    """Kill a run, run again, and say what is wrong; None: it was over before the kill.

    Args:
        program: what is killed.
        inputs: see `make_inputs`.
        case: an empty folder.
        reference: of the program.
        random: decides the moment.
    """
    program.prepare(inputs, case)
    early = random.random() < EARLY
    wait = random.uniform(0, reference.end if early else reference.end - reference.begin)
    process = start(program, inputs, case)
    if not early:
        _wait_for_a_file(process, case, _tree(case))
    process.join(wait)
    if process.exitcode is not None:
        return None
    _kill(process)
    wrong = [f"torn: {reason}" for name in ("out", "cache") for reason in find_torn(case / name)]
    time.sleep(STALE)
    process = start(program, inputs, case)
    process.join(PATIENCE)
    if process.exitcode != program.exit_code:
        said = (case / "said.txt").read_text()[-600:]
        _kill(process)
        return [*wrong, f"rerun: exit code {process.exitcode}: {said}"]
    after = _files(case)
    wrong += [f"left over: {name}" for name in sorted(after.keys() - reference.names)]
    wrong += [f"missing: {name}" for name in sorted(reference.names - after.keys())]
    wrong += [
        f"different: {name}"
        for name, content in reference.files.items()
        if name in after and not is_same(after[name], content)
    ]
    return wrong


def _take_turns(names: Iterable[str]) -> Iterator[str]:
    """Name the programs in turns without end; some not in every round."""
    for turn in count():
        yield from (name for name in names if turn % PROGRAMS[name].rounds == 0)


def _run_whole(program: Program, inputs: Path, case: Path) -> tuple[float, float]:
    """Run a program to its end; return when it wrote something first, and how long it took [s]."""
    program.prepare(inputs, case)
    began = time.monotonic()
    process = start(program, inputs, case)
    begin = _wait_for_a_file(process, case, _tree(case)) - began
    process.join(PATIENCE)
    if process.exitcode != program.exit_code:
        raise click.ClickException(f"exit code {process.exitcode}: {(case / 'said.txt').read_text()[-2000:]}")
    return begin, time.monotonic() - began


def _wait_for_a_file(process, case: Path, before: set[Path]) -> float:
    while process.exitcode is None and not _tree(case) - before:
        time.sleep(0.005)
    return time.monotonic()


def _tree(case: Path) -> set[Path]:
    """List what lies below the folders that are written."""
    return {path for name in ("out", "cache", "tmp") for path in (case / name).rglob("*")}


def _files(case: Path) -> dict[str, object]:
    """Read all files of a case but what the programs said."""
    return {name: content for name, content in snapshot(case).items() if name != "said.txt"}


def _kill(process) -> None:
    with suppress(ProcessLookupError):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no session of its own yet
            process.kill()
    process.join()


@click.command()
@click.option("--kills", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(PROGRAMS)), help="[default: all but ray]")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the folders of bad cases here.")
def main(kills: int, seed: int, only: tuple[str, ...], keep: Path | None) -> None:
    """Kill runs with SIGKILL at random moments; exit with 1 if a file is torn, left over or different."""
    chosen = only or tuple(name for name in PROGRAMS if name != "ray")
    done, bad = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="ovsdino-kills-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        inputs = folder / "inputs"
        os.environ["OVSDINO_CACHE"] = str(folder / "cache")
        preload(chosen)
        make_inputs(inputs, networks=bool({*chosen} & {*NETWORKS}))
        references = {}
        for name in chosen:
            references[name] = measure(PROGRAMS[name], inputs, folder)
            click.echo(f"{name}: {references[name].end:.1f} s, {len(references[name].names)} files")
        for number, name in enumerate(_take_turns(chosen)):
            if done.total() >= kills:
                break
            case, random = folder / "case", Random(f"{seed} {number}")
            wrong = kill_once(PROGRAMS[name], inputs, case, reference=references[name], random=random)
            done[name] += wrong is not None
            for reason in wrong or ():
                bad[f"{name}: {reason.partition(':')[0]}"] += 1
                click.echo(f"kill {number} of seed {seed}, {name}: {reason}")
            if wrong and keep:
                shutil.copytree(
                    case, keep / f"{name}-{number}", symlinks=True, ignore=shutil.ignore_patterns("ray")
                )
            shutil.rmtree(case)
            click.echo(f"so far: {dict(done)}", err=True)
        click.echo(f"killed: {dict(done)}; wrong: {dict(bad) or 0}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
