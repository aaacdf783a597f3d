# SPDX-License-Identifier: GPL-3.0-or-later
"""Queue rules: what a listener in the host's namespace must permit, Suricata in IPS mode for one, and what stands above and below.

Listeners that are killed, full, or several: kmod/tests/packets.py, which test_kernel.py runs.
"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ALPHA, UPLINK, Bench

NUMBER = 7
MARK = "BRIDGEWARDEN-FORBIDDEN"
WAYS = {
    "same bridge": ("beta", ALPHA, 8080),
    "other bridge": ("gamma", ALPHA, 8080),
    "published": ("office", UPLINK, 18080),
    "from the host": ("host", ALPHA, 8080),
}
FLOWS = [f"{way} ipv{v}" for way in WAYS for v in (4, 6)]
FOLDER = "/run/bw-suricata"
START = f"""
    mkdir -p {FOLDER}
    echo 'drop tcp any any -> any any (msg:"marked"; content:"{MARK}"; sid:1; rev:1;)' > {FOLDER}/rules
    suricata -c /etc/suricata/suricata.yaml -S {FOLDER}/rules -q {NUMBER} -k none -l {FOLDER} \\
        --pidfile {FOLDER}/pid -D >{FOLDER}/out 2>&1
    for i in $(seq 240); do grep -qi 'engine started' {FOLDER}/suricata.log && exit; sleep 0.5; done
    cat {FOLDER}/out {FOLDER}/suricata.log >&2; exit 1"""
KILL = f"pid=$(cat {FOLDER}/pid); kill -9 $pid; for i in $(seq 100); do [ -d /proc/$pid ] || exit 0; sleep 0.1; done; exit 1"


def rule(action: str, name: str = "inspected", bypass: bool = False, **words: Any) -> dict[str, Any]:
    body = {"name": name, "from": ["any"], "to": ["container:alpha"], "ports": ["8080/tcp"], "action": action}
    if action == "queue":
        body["queue"] = {"num": NUMBER, "bypass": bypass}
    return {**body, **words}


def begin(bench: Bench, ids: str) -> dict[str, str]:
    flows = [
        {"id": f"{ids} {way} ipv{v}", "from": who, "host": to[v], "port": port}
        for way, (who, to, port) in WAYS.items()
        for v in (4, 6)
    ]
    said = bench.connect(flows=flows)
    return {key[len(ids) + 1 :]: word for key, word in said.items()}


def talk(bench: Bench, ids: str, text: str) -> dict[str, str]:
    said = bench.talk(ids=[f"{ids} {key}" for key in FLOWS], text=text)
    return {key[len(ids) + 1 :]: word for key, word in said.items()}


@pytest.fixture(scope="module")
def suricata(bench: Bench) -> Any:
    found: dict[str, Any] = {}
    bench.commit(rule("allow"))
    begin(bench, "plain")
    found["plain"] = talk(bench, "plain", MARK)
    bench.close(ids=[f"plain {key}" for key in FLOWS])
    bench.commit(rule("queue"))
    bench.sh(command=START)
    try:
        before = bench.counters()
        found["connected"] = begin(bench, "good")
        begin(bench, "bad")
        found["good"] = talk(bench, "good", "a harmless request")
        found["bad"] = talk(bench, "bad", MARK)
        found["good again"] = talk(bench, "good", "another harmless request")
        # Not grown(): the bad ones still repeat themselves.
        found["counted"] = bench.counters()["inspected"] - before["inspected"]
        found["log"] = bench.sh(command=f"cat {FOLDER}/fast.log")["out"].splitlines()
    finally:
        bench.sh(command=KILL)
    found["killed"] = talk(bench, "good", "is anybody there")
    found["killed, new"] = bench.reach(*WAYS.values())
    bench.commit(rule("queue", bypass=True))
    found["bypass"] = bench.reach(*WAYS.values())
    bench.close(ids=[f"{ids} {key}" for ids in ("good", "bad") for key in FLOWS])
    bench.sh(command=f"rm -rf {FOLDER}")
    return found


@pytest.mark.parametrize("flow", FLOWS)
class TestSuricata:
    def test_without_it_the_marked_request_passes(self, suricata: Any, flow: str) -> None:
        assert suricata["plain"][flow] == "yes"

    def test_a_harmless_request_passes(self, suricata: Any, flow: str) -> None:
        assert (suricata["connected"][flow], suricata["good"][flow]) == ("connected", "yes")
        assert suricata["good again"][flow] == "yes"

    def test_the_marked_request_is_stopped(self, suricata: Any, flow: str) -> None:
        assert suricata["bad"][flow] == "no"

    def test_killed_it_lets_nothing_through(self, suricata: Any, flow: str) -> None:
        assert suricata["killed"][flow] == "no"


def test_suricata_says_that_it_dropped_them(suricata: Any) -> None:
    lines = [line for line in suricata["log"] if "[Drop]" in line and "marked" in line]
    assert len(lines) >= len(FLOWS)
    assert suricata["counted"] > 6 * len(FLOWS)


@pytest.mark.parametrize("way", WAYS)
def test_nobody_listens(suricata: Any, way: str) -> None:
    number = list(WAYS).index(way)
    assert suricata["killed, new"][number] == "timeout timeout"
    assert suricata["bypass"][number] == "open open"


#: rules -> what becomes of it with nobody listening, without and with bypass
ORDER = {
    ("queue",): ("timeout", "open"),
    ("allow", "queue"): ("timeout", "open"),
    ("reject", "queue"): ("refused", "refused"),
    ("deny", "queue"): ("timeout", "timeout"),
}


@pytest.fixture(scope="module")
def ordered(bench: Bench) -> Any:
    found = {}
    for actions in ORDER:
        for bypass in (False, True):
            others = [
                rule(action, f"{action} it", to=["containers"]) for action in actions if action != "queue"
            ]
            bench.commit(rule("queue", bypass=bypass), *others)
            found[actions, bypass] = dict(zip(WAYS, bench.reach(*WAYS.values()), strict=True))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("actions", ORDER, ids="+".join)
def test_between_reject_and_allow(ordered: Any, actions: tuple[str, ...], way: str) -> None:
    for bypass, wanted in zip((False, True), ORDER[actions], strict=True):
        assert ordered[actions, bypass][way] == f"{wanted} {wanted}"
