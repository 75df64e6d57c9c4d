"""What holds for every test: time limits, silence in the log, and a home folder of its own.

* A test that takes longer than its limit fails (:data:`LIMIT_SECONDS`, or
  ``@pytest.mark.time_limit(seconds)``). One that hangs where no signal reaches Python, as in a read of a dead
  mount, ends the whole run with all stacks.
* A record of WARNING or worse from ``datfs`` that the test did not expect fails it. Expected are records that
  match ``@pytest.mark.expect_log("regex")``, and all of them in tests that take ``caplog``: they look.
* Nothing reads the settings and caches of the person who runs the tests.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import signal
from collections.abc import Iterator
from types import FrameType

import hypothesis
import pytest

LIMIT_SECONDS = 60.0
"""Enough for the slowest test on a busy machine with two cores, short enough to wait for."""

STUCK_SECONDS = 60.0
"""How much longer a test may ignore its limit before the run ends."""

_stderr = pytest.StashKey[int]()

# Shared machines pause for longer than any deadline that would mean something.
# Examples are drawn anew each time on a desk; in CI they are always the same, so that what fails there is the change.
hypothesis.settings.register_profile("datfs", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("datfs"), derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "datfs")


def pytest_configure(config: pytest.Config) -> None:
    """Declares the markers of this file and keeps a way to the terminal past pytest's capturing."""
    config.addinivalue_line("markers", "time_limit(seconds): instead of the limit that all tests have")
    config.addinivalue_line("markers", "expect_log(regex): warnings and errors in the log that match are no failure")
    config.stash[_stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Closes what :func:`pytest_configure` opened."""
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Limits the time of one test with its fixtures."""
    marker = item.get_closest_marker("time_limit")
    limit = float(marker.args[0]) if marker else LIMIT_SECONDS

    def too_slow(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"took longer than {limit:g} seconds")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, limit)
    faulthandler.dump_traceback_later(limit + STUCK_SECONDS, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Collector(logging.Handler):
    """Keeps the text of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fails a test that passed but made datfs complain."""
    collector = _Collector()
    logger = logging.getLogger("datfs")
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)
    if "caplog" in getattr(item, "fixturenames", ()):
        return
    expected = [re.compile(marker.args[0]) for marker in item.iter_markers("expect_log")]
    stray = [line for line in collector.lines if not any(pattern.search(line) for pattern in expected)]
    if stray:
        pytest.fail("unexpected in the log:\n" + "\n".join(stray), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """HOME and the XDG folders are empty ones, for this process and those it starts."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("DATFS_DISCOVERY", "none")  # what a test sends stays on loopback
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeats what ``./dev test`` found before pytest began: its own last lines come after this."""
    failed = os.environ.get("DATFS_FAILED_STEPS")
    if failed:
        terminalreporter.section("failed before pytest, see far above", red=True, bold=True)
        terminalreporter.write_line(failed)
