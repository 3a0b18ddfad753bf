"""Ask a server with several clients while attackers ask beside them, in turns with times without attackers.

python -m tests.fuzz.server_attack --seconds 600 --clients 8
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE

import click
import numpy as np

from tests.fuzz.attacks import ATTACKS, form
from tests.fuzz.workspace import Workspace

KEY = "0123456789abcdef0123456789abcdef"
MEMORY = re.compile(rb"^process_resident_memory_bytes (\S+)", re.MULTILINE)
WORDS = ("red, green, blue", "black|white, yellow", "blue, red|green")
RATIO = 2.0  # of p99 with attackers to p99 without
GROWTH = 300.0  # [MB] of the server


@dataclass
class Phase:
    """What the clients saw while attackers were there, or were not."""

    took: list[float] = field(default_factory=list)  # [ms] of good answers
    lost: Counter[str] = field(default_factory=Counter)  # what came instead of 200 -> how often
    memory: list[float] = field(default_factory=list)  # [MB] of the server

    @property
    def p50(self) -> float:
        return float(np.percentile(self.took, 50))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.took, 99))


class Clients:
    """Clients that ask again as soon as they are answered; an answer counts for the phase of its request."""

    def __init__(self, address: tuple[str, int], photo: bytes, count: int) -> None:
        self._address, self._photo = address, photo
        self.phase = Phase()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=120)
        body, headers = form(self._photo, classes=WORDS[number % len(WORDS)])
        while not self._stop.is_set():
            phase, start = self.phase, time.monotonic()
            try:
                connection.request("POST", "/segment", body, {**headers, "X-API-Key": KEY})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                phase.lost[type(error).__name__] += 1
                continue
            if answer.status == 200:
                phase.took.append(1000 * (time.monotonic() - start))
            else:
                phase.lost[str(answer.status)] += 1
        connection.close()


@contextmanager
def serving(model: str, folder: Path, threads: int) -> Iterator[tuple[str, int]]:
    """Run `ovsdino serve` with a key and a host check; give its address."""
    (folder / "keys").write_text(KEY)
    command = [sys.executable, "-c", "from ovsdino.cli import main; main()", "serve", "--port", "0"]
    command += ["--model", model, "--threads", str(threads), "--api-key-file", str(folder / "keys")]
    environment = os.environ | {"OVSDINO_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)/", process.stdout.readline())
        if not found:
            raise click.ClickException("the server did not start")
        yield found[1], int(found[2])
        if process.poll() is not None:
            raise click.ClickException(f"the server ended with {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def attacking(address: tuple[str, int], names: tuple[str, ...]) -> Iterator[Counter[str]]:
    """Run one attacker of each kind, each in a process of its own; at the end say what they were answered.

    The block begins when all of them are ready.
    """
    totals, url = Counter[str](), f"http://{address[0]}:{address[1]}"
    processes = {}
    for number, name in enumerate(names, 1):
        command = [sys.executable, "-m", "tests.fuzz.attacks", name, url, str(number), KEY]
        processes[name] = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, env=os.environ)
    for process in processes.values():
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("begin\n")
        process.stdin.flush()
    try:
        yield totals
    finally:
        for name, process in processes.items():
            answers = json.loads(process.communicate()[0])
            totals.update({f"{name} {answer}": number for answer, number in answers.items()})


def read_memory(address: tuple[str, int]) -> float:
    """Read the server's memory [MB] from its metrics."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("GET", "/metrics", headers={"X-API-Key": KEY})
    found = MEMORY.search(connection.getresponse().read())
    connection.close()
    return float(found[1]) / 1e6 if found else float("nan")


def wait(address: tuple[str, int], seconds: float, phase: Phase) -> None:
    """Let the clients ask, and look at the server's memory now and then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        phase.memory.append(read_memory(address))
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


@click.command()
@click.option("--seconds", type=click.FloatRange(min=2), default=600.0, show_default=True, help="In all.")
@click.option("--clients", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option(
    "--turns", type=click.IntRange(1, 100), default=5, show_default=True, help="Each without and with."
)
@click.option("--attack", "attacks", multiple=True, type=click.Choice(list(ATTACKS)), help="[default: all]")
@click.option("--model", default="tiny", show_default=True, help="tiny is the tests' own model.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the server.")
def main(
    seconds: float, clients: int, turns: int, attacks: tuple[str, ...], model: str, threads: int
) -> None:
    """Count lost requests, compare p99 and memory with and without attackers; exit with 1 if one is bad."""
    names = attacks or tuple(ATTACKS)
    calm, attacked, answers = Phase(), Phase(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="ovsdino-attack-") as temporary:
        workspace = Workspace(Path(temporary))
        chosen, photo = str(workspace.bundle) if model == "tiny" else model, workspace.encoded("JPEG")
        with serving(chosen, Path(temporary), threads) as address, Clients(address, photo, clients) as asking:
            wait(address, min(5.0, seconds / 10), Phase())  # the first answers are slow
            for _ in range(turns):
                asking.phase = calm
                wait(address, seconds / turns / 2, calm)
                asking.phase = Phase()  # what is asked while the attackers begin
                with attacking(address, names) as got:
                    asking.phase = attacked
                    wait(address, seconds / turns / 2, attacked)
                    asking.phase = Phase()  # what is asked while the attackers end
                answers.update(got)
    for name, phase in (("without attackers", calm), ("with attackers", attacked)):
        click.echo(
            f"{name}: {len(phase.took)} answers, {phase.lost.total()} lost {dict(phase.lost) or ''}, "
            f"p50 {phase.p50:.0f} ms, p99 {phase.p99:.0f} ms, memory {phase.memory[0]:.0f} to "
            f"{phase.memory[-1]:.0f} MB, at most {max(phase.memory):.0f} MB"
        )
    for answer, number in sorted(answers.items()):
        click.echo(f"  attackers got: {answer}: {number}")
    ratio, growth = attacked.p99 / calm.p99, max(attacked.memory) - calm.memory[0]
    click.echo(f"p99 ratio {ratio:.2f}, memory at most {growth:.0f} MB above the first")
    bad = calm.lost.total() + attacked.lost.total() or ratio > RATIO or growth > GROWTH
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
