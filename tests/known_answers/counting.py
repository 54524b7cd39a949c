"""A pytest plugin: counts the published known answers that a run checked, and says so at its end.

Mark a test with `@pytest.mark.known_answer("B2")`, more names where it checks more; the root conftest loads
the plugin. An entry counts once all tests that carry it passed.
"""

import re

import pytest

MARKER = "known_answer(entry, ...): checks these entries of the published known answers, such as B2"


class KnownAnswers:
    """Remembers which entries a run met and which of them failed it."""

    def __init__(self) -> None:
        self.met: set[str] = set()
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        report = yield
        entries = {entry for marker in item.iter_markers("known_answer") for entry in marker.args}
        if report.when == "call" and report.passed:
            self.met |= entries
        if report.failed:
            self.failed |= entries
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        checked = sorted(self.met - self.failed, key=_by_letter_and_number)
        if checked:
            terminalreporter.write_line(f"known answers: {len(checked)} entries checked: {' '.join(checked)}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    config.pluginmanager.register(KnownAnswers(), "known-answers")


def _by_letter_and_number(entry: str) -> tuple[str, int]:
    found = re.fullmatch(r"([A-Z])(\d+)", entry)
    if not found:
        raise pytest.UsageError(f"known_answer({entry!r}): not an entry's name such as 'B2'")
    return found[1], int(found[2])
