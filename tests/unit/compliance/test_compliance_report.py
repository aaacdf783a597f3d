# SPDX-License-Identifier: GPL-3.0-or-later
"""The merged compliance report: no host is missing, no status is lost, JUnit is what it claims."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.bridgewarden.docker.plugins.filter import compliance_report as filters
from ansible_collections.bridgewarden.docker.plugins.plugin_utils import _compliance_report as report

WHEN = "2026-01-02T03:04:05Z"


def control(name: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "title": name.title(),
        "severity": "high",
        "status": status,
        "expected": 1,
        "actual": 0,
        **more,
    }


GOOD = {"controls": [control("module", "pass"), control("bridge", "pass")], "meta": {"kernel": "6.12"}}
BAD = {"controls": [control("module", "pass"), control("bridge", "fail", remediation="Run it.")]}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "fail"], "fail"),
        (["fail", "error", "pass"], "error"),
        (["pass", "unheard-of"], "error"),
        ([], "error"),
    ],
)
def test_the_worst_status_counts_and_nothing_is_an_error(statuses: list[str], expected: str) -> None:
    assert report.worst(statuses) == expected


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"unreachable": True, "msg": "no route"}, "unreachable: no route"),
        ({"failed": True, "msg": "no python"}, "the check failed: no python"),
        ({"controls": []}, "the check failed"),
        (None, report.NEVER),
    ],
)
def test_a_host_without_controls_is_an_error_row(result: dict[str, Any] | None, words: str) -> None:
    row = report.host_row("h", result)
    assert row["status"] == "error"
    assert len(row["controls"]) == 1
    assert words in row["controls"][0]["actual"]


def test_counts_and_status_of_a_fleet() -> None:
    merged = report.merge({"a": GOOD, "b": BAD, "c": {"unreachable": True, "msg": "gone"}}, WHEN)
    assert merged["summary"] == {"pass": 3, "fail": 1, "error": 1, "hosts": 3, "not_covered": 0}
    assert merged["status"] == "error"
    assert [row["host"] for row in merged["hosts"]] == ["a", "b", "c"]
    assert merged["hosts"][0]["meta"] == {"kernel": "6.12"}


def test_all_green_passes_and_no_host_does_not() -> None:
    assert report.merge({"a": GOOD}, WHEN)["status"] == "pass"
    assert report.merge({}, WHEN)["status"] == "error"


def test_an_unknown_status_is_counted_as_an_error() -> None:
    merged = report.merge({"a": {"controls": [control("module", "maybe")]}}, WHEN)
    assert merged["summary"] == {"pass": 0, "fail": 0, "error": 1, "hosts": 1, "not_covered": 0}
    suite = ElementTree.fromstring(report.junit(merged)).find("testsuite")
    assert suite is not None
    assert suite.get("errors") == "1"
    assert suite.find("testcase/error") is not None


def test_junit_has_a_suite_a_host_and_a_case_a_control() -> None:
    root = ElementTree.fromstring(report.junit(report.merge({"a": GOOD, "b": BAD, "c": None}, WHEN)))
    counts = {
        s.get("name"): (s.get("tests"), s.get("failures"), s.get("errors")) for s in root.findall("testsuite")
    }
    assert counts == {"a": ("2", "0", "0"), "b": ("2", "1", "0"), "c": ("1", "0", "1")}
    failure = root.find("testsuite[@name='b']/testcase/failure")
    assert failure is not None
    assert failure.get("message") == "bridge (fail): Bridge: expected 1, found 0. Run it."


def test_junit_survives_what_a_host_may_say() -> None:
    nasty = {"controls": [control("module", "fail", actual="\x1b[31m<&>\x00\ud800")]}
    failure = ElementTree.fromstring(report.junit(report.merge({"a": nasty}, WHEN))).find(".//failure")
    assert failure is not None
    assert "[31m<&>" in str(failure.get("message"))


@pytest.mark.parametrize("evil", ["\x1b[2J", "\r", "\nb: all is well", "\u202e", "\x9b2J", "\x85", "\ud800"])
def test_what_a_host_says_is_one_line_of_text(evil: str) -> None:
    words = f"x{evil}y"
    nasty = {
        "controls": [control(words, "fail", title=words, actual=[words], remediation=words, severity=words)]
    }
    merged = report.merge({"a": nasty, "b": {"unreachable": True, "msg": words}}, WHEN)
    assert len(report.summary(merged)) == 3 and len(report.open_controls(nasty)) == 1
    assert all(line.isprintable() for line in report.summary(merged) + report.open_controls(nasty))
    values = [
        value
        for element in ElementTree.fromstring(report.junit(merged)).iter()
        for value in element.attrib.values()
    ]
    assert len(values) > 10 and all(value.isprintable() for value in values)
    assert merged["hosts"][0]["controls"][0]["actual"] == [words]  # report.json is exact


def test_the_summary_names_only_what_is_open() -> None:
    lines = report.summary(report.merge({"a": GOOD, "b": BAD}, WHEN))
    assert lines[0] == "hosts: 2; controls: 3 pass, 1 fail, 0 could not be checked; not covered: 0"
    assert len(lines) == 2
    assert lines[1].startswith("b: bridge (fail)")


def test_what_is_not_covered_is_never_green() -> None:
    gap = {"what": "host network", "name": "ex\x1b[2Jporter", "why": "no bridge", "hint": "give it one"}
    merged = report.merge({"a": {**GOOD, "not_covered": [gap]}, "b": GOOD}, WHEN)
    assert (merged["status"], merged["summary"]["not_covered"]) == ("pass", 1)
    assert report.summary(merged)[1] == "a: not covered: host network ex?[2Jporter: no bridge; give it one"
    suites = ElementTree.fromstring(report.junit(merged)).findall("testsuite")
    assert [suite.get("skipped") for suite in suites] == ["1", "0"]
    assert int(str(suites[0].get("tests"))) == len(suites[0].findall("testcase"))
    skipped = suites[0].find(".//skipped")
    assert skipped is not None and "no bridge" in str(skipped.get("message"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        ([], "nothing"),
        ([1, "b"], "1, b"),
        ({"a": [1]}, "a=1"),
        (False, "False"),
        ("", "nothing"),
    ],
)
def test_values_in_words(value: Any, text: str) -> None:
    assert report.plain(value) == text


def test_the_filters_read_the_registered_variable() -> None:
    merged = filters.compliance_report(["a", "b"], {"a": {"bridgewarden_compliance": GOOD}, "b": {}})
    assert [row["status"] for row in merged["hosts"]] == ["pass", "error"]
    assert filters.open_controls(GOOD) == []
    assert len(filters.open_controls(BAD)) == 1
    with pytest.raises(Exception, match="list of host names"):
        filters.compliance_report("a", {})
