"""The matrix: what is asked, what is compared, and that a violated expectation cannot be overlooked."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from lab import matrix, report, table
from lab.errors import LabError
from lab.matrix import Answers

WANTED = matrix.expected_of_this_checkout()


def answers(result: str, **other: str) -> Answers:
    """The same result for every path, but for those given as office_host_8081_4="open"."""
    found: dict[Any, Any] = {}
    for key in matrix.all_paths():
        name = "_".join(str(part) for part in key)
        found[key] = {"result": other.get(name, result), "host": "192.0.2.1", "detail": "x", "seconds": 0.1}
    return found


def as_expected() -> Answers:
    found = answers("timeout")
    for key in found:
        if key[:3] in WANTED:
            found[key]["result"] = "open"
    return found


def test_no_container_probes_itself_but_the_host_does() -> None:
    asked = {(source, to) for source, to, _, _ in matrix.all_paths()}
    assert ("web", "web") not in asked and ("host", "host") in asked
    assert len(matrix.all_paths()) == len(set(matrix.all_paths()))


def test_an_expectation_for_a_path_that_is_never_probed_is_an_error() -> None:
    with pytest.raises(LabError, match="'cellar'"):
        matrix.expected_open("open: [{why: x, from: [cellar], to: host, port: 22}]")


def test_the_database_is_for_the_api_and_the_host_only() -> None:
    assert {source for source, to, _ in WANTED if to == "db"} == {"api", "host"}


def test_all_as_expected() -> None:
    reaches = matrix.compare(answers("open"), as_expected(), WANTED)
    assert not [reach for reach in reaches if reach.violated]
    assert all(reach.changed == (reach.expected != "open") for reach in reaches)


@pytest.mark.parametrize("result", ["refused", "timeout"])
def test_a_closed_door_that_should_be_open_is_a_violation(result: str) -> None:
    after = as_expected()
    after[("api", "db", 5432, 6)]["result"] = result
    wrong = [reach.key for reach in matrix.compare(answers("open"), after, WANTED) if reach.violated]
    assert wrong == [("api", "db", 5432, 6)]


def test_an_open_door_that_should_be_closed_is_a_violation() -> None:
    after = as_expected()
    after[("loner", "db", 5432, 4)]["result"] = "open"
    wrong = [reach.key for reach in matrix.compare(answers("open"), after, WANTED) if reach.violated]
    assert wrong == [("loner", "db", 5432, 4)]


def test_a_path_that_does_not_exist_is_left_out_but_one_that_vanished_is_not() -> None:
    before = answers("open", loner_db_5432_6="absent")
    after = answers("open", loner_db_5432_6="absent", api_db_5432_6="absent")
    reaches = {reach.key: reach for reach in matrix.compare(before, after, WANTED)}
    assert ("loner", "db", 5432, 6) not in reaches
    assert reaches[("api", "db", 5432, 6)].violated


def test_silence_that_turns_into_refusal_is_no_change() -> None:
    reaches = matrix.compare(answers("timeout"), answers("refused"), WANTED)
    assert not any(reach.changed for reach in reaches)


def test_records_have_the_published_keys() -> None:
    record = matrix.compare(answers("open"), as_expected(), WANTED)[0].record()
    assert list(record) == ["from", "to", "proto", "port", "family", "before", "after", "expected"]
    json.dumps(record)


def test_the_terminal_table_marks_changes_and_violations_without_colour() -> None:
    after = as_expected()
    after[("stranger", "host", 8081, 4)]["result"] = "open"
    text = table.render(matrix.compare(answers("open"), after, WANTED), colour=False)
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("stranger")).split()[2] == "●!"
    assert "●→·" in next(line for line in lines if line.startswith("loner"))
    assert "\x1b" not in text
    assert len({line.index("ssh:22") for line in lines if "ssh:22" in line}) == 1


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "circle", "path", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "path"):
            assert self.open.pop() == tag


def test_the_page_is_whole_needs_nothing_from_outside_and_escapes_what_it_shows() -> None:
    after = as_expected()
    after[("api", "db", 5432, 4)].update(result="timeout", detail="<script>")
    facts = report.Facts("now", [("Kernel", "6.1 <b>")], [("probes", 1.0)])
    html = report.render(matrix.compare(answers("open"), after, WANTED), facts)
    page = _Page()
    page.feed(html)
    assert page.open == [] and page.links == []
    assert "<script>" not in html and "6.1 &lt;b&gt;" in html and "{{" not in html and "http" not in html
    assert "api → db:5432 (container addresses, directly) over IPv4 is <b>silence</b>, expected open" in html


def test_what_the_host_says_is_no_template() -> None:
    after = as_expected()
    after[("api", "db", 5432, 4)].update(result="timeout", detail="{{ timing }}\"'<svg onload=x>")
    facts = report.Facts("{{details}}", [("{{timing}}<b>", "{{details}}")], [("{{legend}}", 1.0)])
    html = report.render(matrix.compare(answers("open"), after, WANTED), facts)
    assert "{{timing}}&lt;b&gt;</dt><dd>{{details}}</dd>" in html and "{{legend}}" in html
    assert (
        html.count("<tbody>") == 2
        and "<svg onload" not in html
        and html.count("{{ timing }}&#34;&#39;&lt;svg") == 2
    )
