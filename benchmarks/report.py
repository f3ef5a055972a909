"""Figures of a run: kept as JSON, shown as a table with ratios, and drawn."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.systems import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Figure:
    """A column of a table.

    Args:
        key: What it is called in a measurement.
        title: What it is called in the table.
        text: Makes text of a value.
    """

    key: str
    title: str
    text: Callable[[float], str]


def number(value: float) -> str:
    """Write a value with three digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def milliseconds(value: float) -> str:
    """Write seconds as milliseconds."""
    return number(value * 1000)


def megabytes(value: float) -> str:
    """Write bytes as megabytes."""
    return number(value / 1e6)


@dataclass
class Results:
    """The measurements of one part.

    Args:
        part: Which part.
        rows: What was measured: operation, system, round and figures.
    """

    part: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, operation: str, system: str, turn: int, figures: dict[str, float]) -> None:
        """Keep the figures of one measurement."""
        self.rows.append({"operation": operation, "system": system, "round": turn, **figures})

    def names(self, key: str) -> list[str]:
        """Return the operations, or the systems, in the order in which they were measured."""
        return list(dict.fromkeys(row[key] for row in self.rows))

    def values(self, operation: str, system: str, key: str) -> dict[int, float]:
        """Return a figure by round."""
        return {
            row["round"]: row[key]
            for row in self.rows
            if row["operation"] == operation and row["system"] == system and key in row
        }

    def median(self, operation: str, system: str, key: str) -> float:
        """Return the median of a figure, or NaN where it was not measured."""
        found = self.values(operation, system, key).values()
        return statistics.median(found) if found else math.nan

    def ratios(self, operation: str, baseline: str, key: str, system: str = "site") -> list[float]:
        """Return how many times a baseline's figure a system has, round by round."""
        own, other = self.values(operation, system, key), self.values(operation, baseline, key)
        return [own[turn] / other[turn] for turn in own if other.get(turn)]

    def save(self) -> Path:
        """Write the measurements beside what they were made on, and return the file."""
        path = RESULTS / f"{self.part}.json"
        path.write_text(json.dumps({**asdict(self), **machine()}, indent=1) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """Return what the measurements were made on, and of."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    processors = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in processors if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.strip(),
        "processors": f"{os.cpu_count()} x {model or platform.machine()}",
        "kernel": platform.release(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }


def spread(ratios: Sequence[float]) -> str:
    """Write ratios as their median, with the least and the greatest."""
    if not ratios:
        return "-"
    text = f"{number(statistics.median(ratios))} x"
    return text if len(ratios) == 1 else f"{text} ({number(min(ratios))} to {number(max(ratios))})"


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, or NaN of nothing."""
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


def table(results: Results, figures: Sequence[Figure], compared: Sequence[str]) -> str:
    """Return the results as a table in Markdown.

    Args:
        results: What was measured.
        figures: Columns.
        compared: Figures of which the site's ratio to each baseline is given.
    """
    systems = results.names("system")
    baselines = [system for system in systems if system != "site"] if "site" in systems else []
    titles = {figure.key: figure.title for figure in figures}
    ratio_titles = [f"{titles[key]}, site to {baseline}" for key in compared for baseline in baselines]
    lines = [["", "system", *titles.values(), *ratio_titles]]
    for operation in results.names("operation"):
        for system in systems:
            if not results.values(operation, system, figures[0].key):
                continue
            cells = [figure.text(results.median(operation, system, figure.key)) for figure in figures]
            ratios = [
                spread(results.ratios(operation, baseline, key)) if system == "site" else ""
                for key in compared
                for baseline in baselines
            ]
            lines.append([operation, system, *cells, *ratios])
    if len(results.names("operation")) > 1 and baselines:
        means = [
            geometric_mean(
                [
                    statistics.median(found)
                    for operation in results.names("operation")
                    if (found := results.ratios(operation, baseline, key)) and min(found) > 0
                ]
            )
            for key in compared
            for baseline in baselines
        ]
        lines.append(["geometric mean", "site", *("" for _ in figures), *(f"{number(mean)} x" for mean in means)])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return lines as a table in Markdown, the first as its head, with columns that are aligned."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(rows)


def draw_bars(results: Results, key: str, title: str) -> Path:
    """Draw a figure of each operation and system as bars, and return the file."""
    from matplotlib.figure import Figure as Drawing

    operations, systems = results.names("operation"), results.names("system")
    drawing = Drawing(figsize=(11, 0.45 * len(operations) * len(systems) + 1.2), layout="constrained")
    axes = drawing.subplots()
    height = 0.8 / len(systems)
    for index, system in enumerate(systems):
        places = [place + index * height for place in range(len(operations))]
        axes.barh(places, [results.median(each, system, key) for each in operations], height=height * 0.9, label=system)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(operations))], operations)
    axes.set(xscale="log", xlabel=title)
    axes.invert_yaxis()
    axes.legend()
    path = RESULTS / f"{results.part}.svg"
    drawing.savefig(path)
    return path


def draw_sizes(results: Results, sizes: Sequence[int], key: str, title: str) -> Path:
    """Draw a figure of each operation against the number of runs, and return the file.

    Args:
        results: Measurements whose operations are named `<operation> @ <runs>`.
        sizes: The numbers of runs.
        key: The figure.
        title: What it is called.
    """
    from matplotlib.figure import Figure as Drawing

    names = list(dict.fromkeys(name.partition(" @ ")[0] for name in results.names("operation")))
    drawing = Drawing(figsize=(4 * min(3, len(names)), 3.2 * math.ceil(len(names) / 3)), layout="constrained")
    for place, name in enumerate(names):
        axes = drawing.add_subplot(math.ceil(len(names) / 3), min(3, len(names)), place + 1)
        for system in results.names("system"):
            axes.plot(sizes, [results.median(f"{name} @ {size}", system, key) for size in sizes], "o-", label=system)
        axes.set(xscale="log", yscale="log", title=name, xlabel="runs", ylabel=title)
        axes.legend()
    path = RESULTS / f"{results.part}.svg"
    drawing.savefig(path)
    return path
