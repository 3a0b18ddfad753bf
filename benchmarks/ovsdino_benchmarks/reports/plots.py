"""Draw the plots of a report as SVG, which is embedded in the page."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from ovsdino_benchmarks.results.results import Latency, Quality

WIDTH, ROW = 7.2, 0.34  # [inch]
BLUE, GREY, RED, INK = "#2563eb", "#a1a1aa", "#dc2626", "#3f3f46"
Figure = Any  # matplotlib.figure.Figure; matplotlib is imported when something is drawn
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": GREY,
}


def stage_plot(latency: Latency) -> str:
    """Draw the median of each stage as a bar, and its floor as a line."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        stages = latency.stages[::-1]
        axes.barh(
            [stage.name for stage in stages], [stage.times.p50 for stage in stages], color=BLUE, height=0.6
        )
        for row, stage in enumerate(stages):
            if stage.floor:
                axes.plot([stage.floor] * 2, [row - 0.42, row + 0.42], color=RED, linewidth=2)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("ms, logarithmic (bar: median; red line: floor)")

    return _svg(draw, height=0.9 + ROW * len(latency.stages))


def sweep_plot(latencies: Sequence[Latency], *, memory: bool, pixels: bool = False) -> str:
    """Draw time, or memory above the model, against the number of classes: one line per method and size.

    Args:
        latencies: results of one model form.
        memory: whether to draw memory instead of time.
        pixels: whether to draw against megapixels: one line per method and number of classes.
    """

    def position(latency: Latency) -> float:
        return megapixels(latency) if pixels else latency.classes

    def line(latency: Latency) -> str:
        return f"{latency.classes} classes" if pixels else latency.size

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, other in enumerate(dict.fromkeys(map(line, latencies))):
            curve = sorted((latency for latency in latencies if line(latency) == other), key=position)
            style = ("-", "--", ":", "-.")[number % 4]
            for name, colour in (("runtime", BLUE), ("torch", RED), ("onnxruntime", INK)):
                points = [
                    (position(latency), y)
                    for latency in curve
                    if (y := _figure(latency, name, memory=memory)) is not None
                ]
                if points:
                    axes.plot(
                        *zip(*points, strict=True), style, marker="o", color=colour, label=f"{name}, {other}"
                    )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(f"{latencies[0].model}, {latencies[0].form}", loc="left", fontsize=9)
        axes.set_xlabel("megapixels of the photo" if pixels else "classes")
        axes.set_ylabel("MB above the loaded model" if memory else "ms, median")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xticks(sorted(set(map(position, latencies))))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)

    return _svg(draw, height=3.2)


def class_plot(quality: Quality) -> str:
    """Draw IoU and Boundary IoU of the classes that occur in the truth, best first."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shown = sorted((row for row in quality.classes if row.pixels), key=lambda row: row.iou or 0)
        names = [row.name for row in shown]
        axes.barh(names, [100 * (row.iou or 0) for row in shown], color=BLUE, height=0.7, label="IoU")
        edges = [100 * (row.boundary_iou or 0) for row in shown]
        axes.plot(edges, names, "|", color=RED, markersize=9, markeredgewidth=2, label="Boundary IoU")
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    return _svg(draw, height=0.8 + 0.2 * sum(row.pixels > 0 for row in quality.classes))


def megapixels(latency: Latency) -> float:
    """Return the size of the photo [megapixels]."""
    width, height = map(int, latency.size.split("x"))
    return round(width * height / 1e6, 2)


def _figure(latency: Latency, way: str, *, memory: bool) -> float | None:
    if way == "runtime":
        fresh, times = latency.fresh, latency.end_to_end
    else:
        baseline = next((baseline for baseline in latency.baselines if baseline.name == way), None)
        if baseline is None:
            return None
        fresh, times = baseline.fresh, baseline.times
    if memory:
        return fresh.above if fresh is not None and fresh.above > 0 else None
    return times.p50


def _svg(draw: Callable[[Any], None], *, height: float) -> str:
    import matplotlib as mpl
    from matplotlib import figure as mpl_figure

    with mpl.rc_context(STYLE):
        figure = mpl_figure.Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', svg, count=1)
