# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures: swim-lanes line by line, the page parsed, and laid out by a real browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import typing as t
from pathlib import Path as File

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.main import main
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import USAGE
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import (
    Places,
    Threader,
    journey_record,
    parse_event,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.lanes import lanes, stops
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.page import (
    conversations,
    routes,
    trace_page,
)

Json = t.Dict[str, t.Any]
DATA = File(__file__).parent / "data"
CHROMIUM = shutil.which("chromium")
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
    assert sum(count for _path, count in shown) == len(found) * 2
    assert len(shown) < len(found) * 2 and all(count % 2 == 0 for _path, count in shown)


def test_the_page_needs_nothing_and_runs_nothing() -> None:
    made = trace_page(whole("published", "nftdrop"), EVIL)
    assert "<script" not in made and "<img" not in made and "&lt;script&gt;" in made
    assert not re.search(r"<[^>]*\s(src|href)\s*=|url\(|@import", made)
    assert made.count("<svg") == made.count("</svg>") == made.count('class="way"')


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
    target.write_text(made.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
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
    source, target = tmp_path / "r.json", tmp_path / "r.html"
    source.write_text(json.dumps(whole("nftdrop")))
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--replay", str(source), "--html", str(target)])
    assert not ended.value.code
    assert "dropped at FORWARD of host by nft_do_chain" in capsys.readouterr().out
    assert target.read_text().startswith("<!doctype html>") and target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SystemExit):
        main(["trace", "--replay", str(source), "--json"])
    assert json.loads(capsys.readouterr().out)["outcome"] == "dropped"


def test_ways_to_name_a_place_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--container", "web", "--guard", "docker0"])
    assert ended.value.code == USAGE and "not allowed with" in capsys.readouterr().err
