"""What tests found out in figures (`shown`) is printed after the run, on any number of workers."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def shown(record_property: Any) -> Any:
    """Call it with a line: the run's summary prints it."""
    return lambda line: record_property("shown", line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "shown"
    ]
    if lines:
        terminalreporter.section("shown by the tests")
        for line in sorted(lines):
            terminalreporter.write_line(line)
