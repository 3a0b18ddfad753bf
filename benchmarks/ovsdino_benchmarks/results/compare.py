"""Compare two reports, as a gate in continuous integration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ovsdino_benchmarks.results.results import Latency, Quality, Report, ResultError

Key = tuple[str, ...]
One = TypeVar("One", Quality, Latency)


@dataclass(frozen=True)
class FigureChange:
    """A figure before and after."""

    what: str
    old: float
    new: float
    unit: str
    regressed: bool

    def line(self) -> str:
        """Return the change as one line of text."""
        change = 100 * (self.new / self.old - 1) if self.unit == "ms" and self.old else self.new - self.old
        by = f"{change:+.1f} %" if self.unit == "ms" else f"{change:+.2f}"
        verdict = "REGRESSED" if self.regressed else "ok"
        return f"{verdict:9} {self.what}: {self.old:.2f} -> {self.new:.2f} {self.unit} ({by})"


def compare(old: Report, new: Report, *, max_slowdown: float, max_miou_drop: float) -> list[FigureChange]:
    """Compare all figures that both reports contain.

    Args:
        old, new: the reports; of repeated measurements the last counts.
        max_slowdown: allowed increase of a median latency, as a share: 0.05 is 5 %.
        max_miou_drop: allowed decrease of mIoU and boundary mIoU [points of 100].

    Returns:
        One change for each figure.

    Raises:
        ResultError: the new report lacks a measurement of the old one, or they have none in common.
    """
    findings: list[FigureChange] = []
    for name, before, after in _pairs(_latencies(old), _latencies(new)):
        a, b = before.end_to_end.p50, after.end_to_end.p50
        findings.append(
            FigureChange(
                what=f"latency {name}", old=a, new=b, unit="ms", regressed=b > a * (1 + max_slowdown)
            )
        )
    for name, was, now in _pairs(_qualities(old), _qualities(new)):
        if (was.protocol, was.data_digest) != (now.protocol, now.data_digest):
            raise ResultError(
                f"quality {name}: measured by another protocol or on other photos; measure it again"
            )
        for figure in ("miou", "boundary_miou"):
            a, b = 100 * getattr(was, figure), 100 * getattr(now, figure)
            findings.append(
                FigureChange(
                    what=f"{figure} {name}", old=a, new=b, unit="points", regressed=a - b > max_miou_drop
                )
            )
    if not findings:
        raise ResultError("there is nothing to compare: the old report holds no measurement")
    return findings


def _latencies(report: Report) -> dict[Key, Latency]:
    return {
        (
            latency.model,
            latency.form,
            latency.device,
            f"{latency.threads} threads",
            latency.size,
            f"{latency.classes} classes",
        ): latency
        for latency in report.latency
    }


def _qualities(report: Report) -> dict[Key, Quality]:
    return {(quality.model, quality.form, quality.data): quality for quality in report.quality}


def _pairs(old: Mapping[Key, One], new: Mapping[Key, One]) -> Iterator[tuple[str, One, One]]:
    for key, before in old.items():
        if key not in new:
            raise ResultError(
                f"{', '.join(key)}: the old report has it and the new one has not; measure it again"
            )
        yield ", ".join(key), before, new[key]
