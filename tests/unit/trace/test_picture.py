# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures: swim-lanes line by line, the page parsed, and laid out by a real browser."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path as File

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.main import main
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import EXIT_USAGE
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError, path_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import (
    Places,
    Threader,
    journey_record,
    parse_event,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.lanes import lanes, stops
from ansible_collections.bridgewarden.docker.plugins.plugin_utils._trace_page import (
    checked_record,
    conversations,
    routes,
    trace_page,
)

Json = t.Dict[str, t.Any]
DATA = File(__file__).parent / "data"
CHROMIUM = shutil.which("chromium")
CSP = (
    """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
)
EVIL = '"><script>document.title="evil"</script><img src=x>'
NAMES = {4026532674: "alpha", 4026532740: "beta", 4026531840: "host", 4026532260: "office", 4026532206: "lan"}


def paths(name: str, names: t.Mapping[int, str] = NAMES) -> t.List[Json]:
    threader, found = Threader(), []
    for event in filter(None, map(parse_event, (DATA / f"{name}.txt").read_text().splitlines())):
        found += threader.add(event)
    found += threader.rest()
    found.sort(key=lambda path: float(path.steps[0]["time"]))
    return [journey_record(path, i, Places(names), 1_700_000_000.0) for i, path in enumerate(found, 1)]


def whole(*names: str) -> Json:
    found: t.List[Json] = []
    for i, name in enumerate(names):
        for path in paths(name):
            path["conversation"] += 100 * i
            found.append(path)
    hooks = [
        {"family": "IPv4", "hook": "FORWARD", "priority": -225, "function": "f", "module": EVIL, "own": False}
    ]
    return {
        "schema": 1, "paths": found, "hooks": {"host": hooks},
        "summary": {"packets": len(found), "events": 99, "withheld": 1, "lost": 0, "blind": 0, "ended": "time", "notes": [EVIL]},
    }  # fmt: skip


def plain(words: str, colour: str) -> str:
    return words


def test_lanes() -> None:
    lines = lanes(paths("nftdrop")[0], 80, plain)
    assert re.fullmatch(r"#1 \d\d:\d\d:\d\d\.\d{6} tcp SYN 172.28.1.11:46704 -> 172.28.1.10:8081", lines[0])
    room = lines[1].index("host")
    assert lines[1].split() == ["beta", "host"]
    assert [line[2:] for line in lines[2:4]] == ["LOCAL_OUT eth0", "POST_ROUTING eth0"]
    assert lines[4][2] == "|" and lines[4].index("PRE_ROUTING br-") == room
    assert lines[5].strip("| ").startswith("FORWARD br-") and lines[5].index("FORWARD") == room
    assert lines[6].strip("| ") == "freed: NETFILTER_DROP: nft_do_chain [nf_tables]"
    assert lines[7] == "  = dropped at FORWARD of host by nft_do_chain [nf_tables], another netfilter user"


def test_lanes_fit_a_narrow_terminal() -> None:
    assert max(len(line) for line in lanes(paths("published")[0], 80, plain)[1:2]) <= 84


def test_nat_is_shown_where_it_happens() -> None:
    by_hook = {
        (stop.namespace, stop.hook): [words for words, _bad in stop.notes]
        for stop in stops(paths("published")[0])
    }
    assert by_hook["host", "PRE_ROUTING"] == ["destination now 172.28.1.10:8080"]
    assert not any(words for place, words in by_hook.items() if place != ("host", "PRE_ROUTING"))


def test_the_engines_verdict_is_shown_at_its_hook() -> None:
    path = copy.deepcopy(paths("nftdrop")[0])
    verdict = {"event": "verdict", "action": "deny", "rule": "no one", "reason": "", "audit": False}
    path["steps"].insert(-1, verdict)
    assert ('deny by rule "no one"', True) in stops(path)[-1].notes
    path["steps"][-2] = dict(verdict, audit=True)
    assert ('audit: deny by rule "no one"', False) in stops(path)[-1].notes


def test_packets_that_went_the_same_way_are_one_drawing() -> None:
    found = paths("published")
    again = [dict(copy.deepcopy(path), id=path["id"] + 50) for path in found]
    (conversation,) = conversations(found + again)
    shown = routes(conversation)
    assert sum(route.packets for route in shown) == len(found) * 2
    assert len(shown) < len(found) * 2 and all(route.packets % 2 == 0 for route in shown)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    made = trace_page(whole("published", "nftdrop"), EVIL)
    assert "<script" not in made and "<img" not in made and "&lt;script&gt;" in made
    assert not re.search(r"<[^>]*\s(src|href)\s*=|url\(|@import", made)
    assert made.count("<svg") == made.count("</svg>") == made.count('class="way"')
    assert CSP in made


Path = t.Tuple[t.Union[str, int], ...]


def leaves(value: t.Any, path: Path = ()) -> t.Iterator[t.Tuple[Path, t.Any]]:
    """Each place of a record where no mapping or list stands."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def replaced(record: Json, path: Path, value: t.Any) -> Json:
    """A copy of the record with this value at the path."""
    made: t.Any = copy.deepcopy(record)
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return t.cast(Json, made)


def small() -> Json:
    """A record with each kind of step, and hooks."""
    record = whole("nftdrop")
    record["paths"] = record["paths"][:1]
    verdict = {"event": "verdict", "action": "deny", "rule": "no one", "reason": "", "audit": False}
    record["paths"][0]["steps"].insert(-1, verdict)
    return record


def places(record: Json) -> t.List[Path]:
    """Where something stands that the page reads."""
    return [path for path, _value in leaves(checked_record(record))]


READ = places(small())


@pytest.mark.parametrize("path", READ, ids=path_text)
def test_whatever_a_host_puts_in_a_record_is_text_or_an_error(path: Path) -> None:
    record = replaced(small(), path, EVIL)
    before = dict(leaves(small()))[path]
    if isinstance(before, (bool, int)) or path[-1] == "event":
        with pytest.raises(BridgewardenError) as raised:
            trace_page(record, "a host")
        assert raised.value.location == path_text(path) and raised.value.hint
    else:
        made = trace_page(record, "a host")
        assert "<script" not in made and "<img" not in made


def test_names_of_namespaces_in_the_tables_are_escaped() -> None:
    record = small()
    record["hooks"] = {EVIL: record["hooks"]["host"], "\x1b[2J\u202ename": record["hooks"]["host"]}
    made = trace_page(record, "a host")
    assert "<script" not in made and "&lt;script&gt;" in made
    assert "?[2J?name" in made and "\u202e" not in made


def test_what_is_no_part_of_a_record_is_ignored() -> None:
    record = small()
    plain = trace_page(record, "a host")
    more = json.loads(json.dumps(record).replace('"reply"', f'"more": {json.dumps([EVIL])}, "reply"'))
    assert trace_page({**more, "page": EVIL, "words": [EVIL], "changed": False}, "a host") == plain


@pytest.mark.parametrize(
    ("record", "location"),
    [
        (None, "record"),
        ("<b>", "record"),
        ([], "record"),
        ({}, "schema"),
        ({**small(), "schema": 2}, "schema"),
        ({**small(), "paths": {}}, "paths"),
        ({**small(), "paths": "paths"}, "paths"),
        ({**small(), "paths": [5]}, "paths[0]"),
        ({**small(), "hooks": []}, "hooks"),
        ({**small(), "hooks": {"host": [{}]}}, "hooks.host[0].family"),
        (replaced(small(), ("paths", 0, "steps", 1, "netns"), True), "paths[0].steps[1].netns"),
        (replaced(small(), ("summary", "packets"), 1.5), "summary.packets"),
    ],
)
def test_a_record_of_another_shape_is_an_error_with_its_place(record: t.Any, location: str) -> None:
    with pytest.raises(BridgewardenError) as raised:
        trace_page(record, "a host")
    assert raised.value.location == location and raised.value.problem and raised.value.hint
    failure = pytest.importorskip("ansible.errors").AnsibleFilterError
    filters = pytest.importorskip("ansible_collections.bridgewarden.docker.plugins.filter.trace_page")
    with pytest.raises(failure, match=re.escape(f"({location})")):
        filters.FilterModule().filters()["trace_page"](record)


def test_a_packet_without_a_crossing_has_no_drawing() -> None:
    record = small()
    record["paths"][0]["steps"] = record["paths"][0]["steps"][-2:]
    made = trace_page(record, "a host")
    assert "<svg" not in made and "dropped at FORWARD of host" in made


def play(name: str, tmp_path: File, **variables: t.Any) -> subprocess.CompletedProcess[str]:
    """A playbook of the collection with a real ansible-playbook."""
    root = File(__file__).resolve().parents[3]
    program = shutil.which("ansible-playbook", path=str(File(sys.executable).parent)) or shutil.which(
        "ansible-playbook"
    )
    assert program, "no ansible-playbook: it comes with requirements-dev.txt"
    return subprocess.run(
        [program, str(root / "playbooks" / name), "-e", json.dumps(variables)],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
        env=dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(root / ".collections"), ANSIBLE_HOME=str(tmp_path / "ansible")),
    )  # fmt: skip


def test_the_playbook_draws_a_record(tmp_path: File) -> None:
    source = tmp_path / "r.json"
    source.write_text(json.dumps(replaced(small(), ("paths", 0, "sentence"), "{{ 6 * 7 }} <b>")))
    done = play("trace_page.yml", tmp_path, bridgewarden_trace_record=str(source))
    assert done.returncode == 0, done.stdout + done.stderr
    made = tmp_path / "r.html"
    assert "{{ 6 * 7 }} &lt;b&gt;</b>" in made.read_text() and made.stat().st_mode & 0o777 == 0o600
    source.write_text(json.dumps(replaced(small(), ("hooks", "host", 0, "priority"), EVIL)))
    done = play("trace_page.yml", tmp_path, bridgewarden_trace_record=str(source))
    assert done.returncode and "hooks.host[0].priority" in done.stdout + done.stderr


MEASURE = """<script>
window.onload = () => {
  const found = {drawings: 0, outside: [], overlaps: [], ways: 0, width: document.documentElement.scrollWidth};
  for (const svg of document.querySelectorAll('svg')) {
    found.drawings++;
    const frame = svg.getBoundingClientRect(), boxes = [];
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBoundingClientRect();
      if (box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1))
        found.outside.push(text.textContent);
      for (const [other, words] of boxes)
        if (box.left < other.right - 1 && other.left < box.right - 1 && box.top < other.bottom - 2 && other.top < box.bottom - 2)
          found.overlaps.push(words + ' / ' + text.textContent);
      boxes.push([box, text.textContent]);
    }
    for (const way of svg.querySelectorAll('polyline')) found.ways += way.getTotalLength() > 50 && getComputedStyle(way).stroke != 'none';
  }
  document.body.insertAdjacentHTML('beforeend', '<pre id="found"></pre>');
  document.getElementById('found').textContent = JSON.stringify(found);
};
</script>"""


def test_a_browser_lays_the_page_out(tmp_path: File) -> None:
    assert CHROMIUM, "no chromium here: make packages installs it, from lab/packages.txt"
    made = trace_page(whole("published", "bridge1", "nftdrop", "proxy"), "a host")
    target = tmp_path / "page.html"
    target.write_text(made.replace(CSP, "").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", f"--user-data-dir={tmp_path}/profile",
         "--virtual-time-budget=3000", "--dump-dom", target.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    dump = re.search(r'<pre id="found">(\{.*?)</pre>', done.stdout, re.S)
    assert dump, done.stdout[-500:] + done.stderr[-500:]
    found = json.loads(dump.group(1).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert found["drawings"] == made.count("<svg") > 4
    assert found["ways"] == found["drawings"]
    assert found["outside"] == [] and found["overlaps"] == []


# The command around it.


def test_a_record_is_shown_again(tmp_path: File, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "r.json"
    source.write_text(json.dumps(whole("nftdrop")))
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--replay", str(source)])
    assert not ended.value.code
    assert "dropped at FORWARD of host by nft_do_chain" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["trace", "--replay", str(source), "--json"])
    assert json.loads(capsys.readouterr().out)["outcome"] == "dropped"


def test_ways_to_name_a_place_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--container", "web", "--guard", "docker0"])
    assert ended.value.code == EXIT_USAGE and "not allowed with" in capsys.readouterr().err
