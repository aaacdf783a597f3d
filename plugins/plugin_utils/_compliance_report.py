# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the hosts' results to one report. Pure functions; run on the controller.

A host that gave no result is a row with status error, never a missing row: an absent host must be visible.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from xml.etree import ElementTree

from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable

Control = t.Dict[str, t.Any]
Report = t.Dict[str, t.Any]

#: From best to worst.
STATUSES = ("pass", "fail", "error")
NEVER = "no check ran on this host"


def worst(statuses: t.Iterable[str]) -> str:
    """The worst of some statuses. Nothing at all is an error, and so is a word that is none of ours."""
    ranks = [STATUSES.index(status) if status in STATUSES else len(STATUSES) - 1 for status in statuses]
    return STATUSES[max(ranks)] if ranks else STATUSES[-1]


def unanswered(result: t.Optional[t.Mapping[str, t.Any]]) -> Control:
    """The row of a host whose checks gave no controls."""
    if result is None:
        actual = NEVER
    elif result.get("unreachable"):
        actual = f"unreachable: {result.get('msg', 'no reason given')}"
    else:
        actual = f"the check failed: {result.get('msg', 'no reason given')}"
    return {
        "id": "answers",
        "title": "The host answers and can be checked",
        "severity": "high",
        "status": "error",
        "expected": "a list of controls",
        "actual": actual,
        "remediation": "Make the host reachable for Ansible, then check again.",
    }


def host_row(host: str, result: t.Optional[t.Mapping[str, t.Any]]) -> t.Dict[str, t.Any]:
    """One host of the report."""
    controls = [dict(control) for control in (result or {}).get("controls") or []] or [unanswered(result)]
    row: t.Dict[str, t.Any] = {
        "host": host,
        "status": worst(control["status"] for control in controls),
        "controls": controls,
    }
    row["not_covered"] = [dict(gap) for gap in (result or {}).get("not_covered") or []]
    if result and result.get("meta"):
        row["meta"] = dict(result["meta"])
    return row


def merge(results: t.Mapping[str, t.Optional[t.Mapping[str, t.Any]]], generated: str) -> Report:
    """The whole report. A report of no host is an error: nothing was proven."""
    hosts = [host_row(host, results[host]) for host in results]
    controls = [control for row in hosts for control in row["controls"]]
    counts = {status: sum(control["status"] == status for control in controls) for status in STATUSES}
    counts["error"] = len(controls) - counts["pass"] - counts["fail"]
    return {
        "generated": generated,
        "status": worst(row["status"] for row in hosts),
        "summary": dict(counts, hosts=len(hosts), not_covered=sum(len(row["not_covered"]) for row in hosts)),
        "hosts": hosts,
    }


def open_controls(result: t.Mapping[str, t.Any]) -> t.List[str]:
    """One sentence for each control of a host that does not pass."""
    return [sentence(control) for control in host_row("", result)["controls"] if control["status"] != "pass"]


def sentence(control: Control) -> str:
    """A control in one line, without control characters: its words are the host's, and people read it on a terminal."""
    expected, actual = plain(control.get("expected")), plain(control.get("actual"))
    head = f"{control['id']} ({control['status']}): {control.get('title', '')}"
    text = f"{head}: expected {expected}, found {actual}"
    return printable(text + (f". {control['remediation']}" if control.get("remediation") else ""))


def plain(value: t.Any) -> str:
    """A value as people read it: lists by commas, mappings as key=value."""
    if isinstance(value, t.Mapping):
        return ", ".join(f"{key}={plain(value[key])}" for key in value) or "nothing"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "nothing"
    return "nothing" if value is None or value == "" else str(value)


def summary(report: Report) -> t.List[str]:
    """Lines for the terminal: the totals, then what is wrong, host by host."""
    counts = report["summary"]
    total = f"hosts: {counts['hosts']}; controls: {counts['pass']} pass, {counts['fail']} fail"
    rows = [(row["host"], control) for row in report["hosts"] for control in row["controls"]]
    lines = [f"{host}: {sentence(control)}" for host, control in rows if control["status"] != "pass"]
    lines += [f"{row['host']}: {gap_sentence(gap)}" for row in report["hosts"] for gap in row["not_covered"]]
    return [
        f"{total}, {counts['error']} could not be checked; not covered: {counts['not_covered']}",
        *lines,
    ]


def gap_sentence(gap: t.Mapping[str, t.Any]) -> str:
    """What no rule can judge, in one line."""
    return printable(f"not covered: {gap['what']} {gap['name']}: {gap['why']}; {gap['hint']}")


def junit(report: Report) -> str:
    """The report as JUnit XML: a suite for each host, a case for each control, and a skipped one for what is not covered."""
    root = ElementTree.Element("testsuites", name="bridgewarden compliance")
    for row in report["hosts"]:
        statuses = [control["status"] for control in row["controls"]]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=row["host"],
            timestamp=report["generated"],
            tests=str(len(statuses) + len(row["not_covered"])),
            failures=str(statuses.count("fail")),
            errors=str(len(statuses) - statuses.count("fail") - statuses.count("pass")),
            skipped=str(len(row["not_covered"])),
        )
        for control in row["controls"]:
            _case(suite, row["host"], control)
        for gap in row["not_covered"]:
            name = printable(f"not covered: {gap['what']} {gap['name']}")
            case = ElementTree.SubElement(suite, "testcase", classname=row["host"], name=name)
            ElementTree.SubElement(case, "skipped", message=gap_sentence(gap))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, host: str, control: Control) -> None:
    name = printable(f"{control['id']}: {control.get('title', '')}")
    case = ElementTree.SubElement(suite, "testcase", classname=host, name=name)
    if control["status"] != "pass":
        kind = "failure" if control["status"] == "fail" else "error"
        severity = printable(str(control.get("severity", "")))
        ElementTree.SubElement(case, kind, message=sentence(control), type=severity)
