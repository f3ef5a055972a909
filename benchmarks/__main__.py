"""Runs the benchmark and prints what came of it; see docs/performance.md.

usage: python -m benchmarks [--smoke] [--rounds N] [--keep] [PART]...
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Error as BrowserError

from benchmarks import artifacts, imports, interface, life
from benchmarks.operations import Load, measure, operations, seed
from benchmarks.report import RESULTS, Figure, Results, draw_bars, draw_sizes, megabytes, milliseconds, number, table
from benchmarks.systems import FIVE_HOSTS, STATE, SYSTEMS, System, alone, ensure, five_hosts, remove, say

SECONDS = Figure("seconds", "s", number)
OF_LOAD = [
    Figure("rate", "requests/s", number),
    Figure("p50", "p50 ms", milliseconds),
    Figure("p99", "p99 ms", milliseconds),
    Figure("cpu", "CPU s per 1,000", number),
    Figure("failures", "failures", number),
]
OF_MEMORY = [
    Figure("rest", "MB at rest", megabytes),
    Figure("memory", "MB under load", megabytes),
    Figure("connections", "connections", number),
]


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Args:
        rounds: How often, in turns between the systems.
        systems: Which systems.
        searched: Sizes of the experiments that are searched.
        sizes: Numbers of runs for the part `size`.
        load: The load.
        files: Small files of the part `artifacts`.
        large_bytes: Size of its large file.
        imported: Runs of the part `import`, by both ways and by the playbook alone.
        points: Metric points of each of these runs.
    """

    rounds: int = 3
    systems: tuple[str, ...] = ("plain", "login", "site")
    searched: tuple[int, ...] = (10_000, 100_000)
    sizes: tuple[int, ...] = (100, 10_000, 100_000)
    load: Load = field(default_factory=Load)
    files: int = artifacts.FILES
    large_bytes: int = 10**9
    imported: tuple[int, int] = (1000, 10_000)
    points: int = 500

    def turns(self, systems: Sequence[str] | None = None) -> Iterator[tuple[int, System]]:
        """Yield round and system: A B A B."""
        for turn in range(self.rounds):
            for name in systems or self.systems:
                with alone(SYSTEMS[name]):
                    yield turn, SYSTEMS[name]

    def two(self) -> list[str]:
        """Return the site and what it is held against where a login makes no difference."""
        return [name for name in self.systems if name != "login"]


# Large enough to see that everything works, and no more.
SMOKE = Extent(
    rounds=1,
    systems=("plain", "site"),
    searched=(100,),
    sizes=(10, 100),
    load=Load(seconds=1, warm_seconds=0),
    files=20,
    large_bytes=20_000_000,
    imported=(10, 20),
    points=20,
)


def measure_operations(extent: Extent) -> Results:
    """Measure requests per second, times, processor time and memory of each operation."""
    results = Results("operations")
    rest = {}
    for _, system in Extent(rounds=1, systems=extent.systems).turns():
        # As after a start: what a load has left in memory is no rest.
        system.restart()
        rest[system.name] = {"rest": float(system.memory())}
        seed(system, extent.searched)
    for place, name in enumerate(each.name for each in operations(SYSTEMS["site"], extent.searched)):
        say(name)
        for turn, system in extent.turns():
            operation = operations(system, extent.searched)[place]
            results.add(name, system.name, turn, measure(system, operation, extent.load) | rest[system.name])
    print(table(results, OF_LOAD, ["rate", "p99", "cpu"]))
    print()
    print(table(of_systems(results), OF_MEMORY, ["rest", "memory"]))
    draw_bars(results, "rate", "requests/s")
    return results


def of_systems(results: Results) -> Results:
    """Return the figures that are of a system rather than of an operation: the highest of them."""
    found = Results("systems")
    for system in results.names("system"):
        rows = [row for row in results.rows if row["system"] == system]
        found.add("whole host", system, 0, {key.key: max(row[key.key] for row in rows) for key in OF_MEMORY})
    return found


def measure_size(extent: Extent) -> Results:
    """Measure the operations against the number of runs in the database."""
    results = Results("size")
    for size in extent.sizes:
        for _, system in Extent(rounds=1, systems=tuple(extent.two())).turns():
            seed(system, [size])
        for place, name in enumerate(each.name for each in operations(SYSTEMS["site"], [size])):
            title = f"{'search of runs' if name.startswith('search') else name} @ {size}"
            say(title)
            for turn, system in extent.turns(extent.two()):
                results.add(title, system.name, turn, measure(system, operations(system, [size])[place], extent.load))
    print(table(results, OF_LOAD, ["rate", "cpu"]))
    draw_sizes(results, extent.sizes, "p50", "p50 in s")
    return results


def measure_ui(extent: Extent) -> Results:
    """Measure the first load of the user interface."""
    results = Results("ui")
    for _, system in Extent(rounds=1, systems=tuple(extent.two())).turns():
        seed(system, [])
    for turn, system in extent.turns(extent.two()):
        say(f"{system.name}, a browser")
        for cache, figures in interface.measure(system).items():
            results.add(cache, system.name, turn, figures)
    columns = [Figure("seconds", "s until shown", number), Figure("bytes", "MB", megabytes)]
    print(table(results, [*columns, Figure("requests", "requests", number)], ["seconds", "bytes"]))
    draw_bars(results, "seconds", "seconds until shown")
    return results


def measure_artifacts(extent: Extent) -> Results:
    """Measure artifacts up and down."""
    results = Results("artifacts")
    for turn, system in extent.turns(extent.two()):
        say(f"{system.name}, artifacts")
        for step, figures in artifacts.measure(system, extent.files, extent.large_bytes).items():
            results.add(step, system.name, turn, figures)
    columns = [SECONDS, Figure("cpu", "CPU s", number), Figure("memory", "MB more at most", megabytes)]
    print(table(results, columns, ["seconds", "cpu"]))
    draw_bars(results, "seconds", "seconds")
    return results


def measure_life(extent: Extent) -> Results:
    """Measure the steps in the life of a deployment."""
    results = Results("life")
    for turn, system in extent.turns(extent.two()):
        say(f"{system.name}, from a fresh host to the first logged run")
        results.add("first run to first logged run", system.name, turn, life.first_run(system))
    for turn, system in extent.turns(["site"]):
        say("a second run, and one that switches colours")
        results.add("second run, no change", system.name, turn, life.second_run())
        results.add("switch of colours", system.name, turn, life.switch(system, turn))
    say("a site of five hosts")
    with five_hosts():
        for turn in range(extent.rounds):
            results.add("second run of five hosts, no change", "site", turn, life.second_run(FIVE_HOSTS))
    for turn, system in extent.turns(extent.two()):
        say(f"{system.name}, a killed master")
        results.add("without service after a killed master", system.name, turn, life.killed_master(system))
    print(table(results, [SECONDS], ["seconds"]))
    draw_bars(results, "seconds", "seconds")
    return results


def measure_import(extent: Extent) -> Results:
    """Measure how long it takes to bring a past to the site, by the playbook and by MLflow's client."""
    results = Results("import")
    for place, runs in enumerate(extent.imported):
        title = f"{runs:,} runs, {runs * extent.points:,} metric points"
        for turn, system in extent.turns(["site"]):
            seed(system, [])
            with tempfile.TemporaryDirectory(dir=STATE) as directory:
                source = Path(directory, "mlruns")
                imports.fill(source, f"imported-{runs}-{turn}", runs, extent.points)
                # What both ways have read before is in the machine's memory for neither or both.
                say(f"{title}, by the playbook")
                results.add(title, "site", turn, imports.by_playbook(system, source))
                if place == 0:
                    say(f"{title}, by MLflow's client")
                    results.add(title, "client", turn, imports.by_client(system, source))
    columns = [SECONDS, Figure("cpu", "CPU s", number), Figure("memory", "MB more at most", megabytes)]
    print(table(results, columns, ["seconds", "cpu"]))
    draw_bars(results, "seconds", "seconds")
    return results


PARTS = {
    "operations": measure_operations,
    "size": measure_size,
    "ui": measure_ui,
    "artifacts": measure_artifacts,
    "life": measure_life,
    "import": measure_import,
}
# Parts that do not take all systems.
SYSTEMS_OF = {"import": ("site",)} | dict.fromkeys(("size", "ui", "artifacts", "life"), ("plain", "site"))


def main() -> int:
    """Run the parts that were asked for. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="The site side by side with MLflow started by hand.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=Extent.rounds, help="measurements of each figure (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="only see that it works")
    parser.add_argument("--keep", action="store_true", help="leave the hosts for the next run")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown or arguments.rounds < 1:
        parser.error(f"'{unknown[0]}' is none of {', '.join(PARTS)}" if unknown else "--rounds takes 1 or more")
    extent = SMOKE if arguments.smoke else Extent(rounds=arguments.rounds)
    failures = 0.0
    RESULTS.mkdir(parents=True, exist_ok=True)
    try:
        parts = arguments.parts or list(PARTS)
        taken = {name for part in parts for name in SYSTEMS_OF.get(part, extent.systems)}
        ensure([SYSTEMS[name] for name in extent.systems if name in taken])
        for part in parts:
            print(f"\n## {part}\n", flush=True)
            results = PARTS[part](extent)
            print(f"\nKept in {results.save().parent}", flush=True)
            failures += sum(row.get("failures", 0) for row in results.rows if row["system"] == "site")
    except (RuntimeError, TimeoutError, BrowserError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep:
            remove(list(SYSTEMS.values()))
    if failures:
        print(f"bench: {failures:.0f} requests to the site failed.", file=sys.stderr)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
