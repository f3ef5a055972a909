"""What the role `preflight` refuses, with facts and programs of a host that is not at hand."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.rows import run_rows

FACTS: dict[str, Any] = {
    "distribution": "Debian",
    "distribution_major_version": "12",
    "distribution_version": "12.11",
    "service_mgr": "systemd",
    "python_version": "3.11.2",
    "memtotal_mb": 1900,
    "all_ipv4_addresses": ["192.0.2.7"],
    "all_ipv6_addresses": ["2001:db8::7"],
}
NAMES = {"preflight_names": ["mlflow.example.com"]}

# What programs print, in place of the real ones.
PROGRAMS = {
    "id": "0",
    "df": "Avail File\n    5 /\n    9 /var",
    "date": "1000 990",
    "getent": "192.0.2.7       STREAM mlflow.example.com\n192.0.2.7       DGRAM",
}

# By name: facts, what programs print, variables, and the refusal.
Row = tuple[dict[str, Any], dict[str, str], dict[str, Any], str]
ROWS: dict[str, Row] = {
    "good": ({}, {}, NAMES, ""),
    "newer": ({"distribution_major_version": "13", "distribution_version": "13.1"}, {}, {}, ""),
    "ubuntu": (
        {"distribution": "Ubuntu", "distribution_major_version": "12", "distribution_version": "12.04"},
        {},
        {},
        "ubuntu runs Ubuntu 12.04; it takes Debian 12 or 13.",
    ),
    "older": (
        {"distribution_major_version": "11", "distribution_version": "11.9"},
        {},
        {},
        "older runs Debian 11.9; it takes Debian 12 or 13.",
    ),
    "init": ({"service_mgr": "sysvinit"}, {}, {}, "init is run by sysvinit; it takes systemd as its first process."),
    "python": ({"python_version": "3.9.18"}, {}, {}, "by Python 3.9.18; it takes 3.11 or newer"),
    "memory": (
        {"memtotal_mb": 1799},
        {},
        {},
        "memory has 1799 MB of memory; it takes 1800 MB (preflight_memory_min_mb).",
    ),
    "less-memory": ({"memtotal_mb": 500}, {}, {"preflight_memory_min_mb": 500}, ""),
    "user": ({}, {"id": "1000"}, {}, "as the user with the number 1000; it takes root"),
    "disk-root": (
        {},
        {"df": "Avail File\n 4 /\n 9 /var"},
        {},
        "4 GB free on /; it takes 5 GB (preflight_disk_free_min_gb).",
    ),
    "disk-var": ({}, {"df": "Avail File\n 9 /\n 4 /var"}, {}, "4 GB free on /var; it takes 5 GB"),
    "clock-fast": ({}, {"date": "1031 1000"}, {}, "differs from the control node's by 31 seconds; it takes 30 at most"),
    "clock-slow": ({}, {"date": "1000 1031"}, {}, "differs from the control node's by 31 seconds; it takes 30 at most"),
    "clock-allowed": ({}, {"date": "1000 1031"}, {"preflight_clock_skew_max": 31}, ""),
    "name-elsewhere": (
        {},
        {"getent": "198.51.100.9  STREAM x"},
        NAMES,
        "mlflow.example.com, which name-elsewhere resolves to 198.51.100.9; it takes names that lead to 192.0.2.7",
    ),
    "name-unknown": (
        {},
        {"getent": ""},
        NAMES,
        "preflight_names has mlflow.example.com, which name-unknown resolves to nothing",
    ),
    "name-public": (
        {},
        {"getent": "198.51.100.9  STREAM x"},
        {**NAMES, "preflight_public_addresses": ["198.51.100.9"]},
        "",
    ),
    "name-ipv6": ({}, {"getent": "2001:db8::7     STREAM x"}, NAMES, ""),
}


@functools.cache
def refusals() -> dict[str, str]:
    """Run the role for all rows at once."""
    with tempfile.TemporaryDirectory() as directory:
        rows = {}
        for name, (facts, programs, variables, _) in ROWS.items():
            (bin_directory := Path(directory, name)).mkdir()
            for program, output in {**PROGRAMS, **programs}.items():
                (bin_directory / program).write_text(
                    f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\n" if output else "#!/bin/sh\nexit 2\n"
                )
                (bin_directory / program).chmod(0o755)
            rows[name] = {"faked_facts": FACTS | facts, "faked_programs": str(bin_directory), **variables}
        return run_rows("preflight", rows, entry="main")[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_host_is_let_through_or_refused_with_the_reason(name: str) -> None:
    refusal, wanted = refusals()[name], ROWS[name][3]
    assert wanted in refusal
    assert bool(refusal) is bool(wanted), refusal
    assert "\n" not in refusal
