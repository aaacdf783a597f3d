# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines, as ulogd2, tcpdump and `bridgewarden log` read them. One of them at a time: a group has one reader.

Their rate, and what it keeps back: kmod/tests/packets.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import ALPHA, BETA, UPLINK, Bench

GROUP = 5
FOLDER = "/run/bw-ulogd"
PLUGINS = (
    "inppkt_NFLOG",
    "raw2packet_BASE",
    "filter_IFINDEX",
    "filter_IP2STR",
    "filter_PRINTPKT",
    "output_LOGEMU",
)
CONFIGURATION = "\n".join(
    [
        "[global]",
        f'logfile="{FOLDER}/ulogd.log"',
        *(f'plugin="/usr/lib/x86_64-linux-gnu/ulogd/ulogd_{name}.so"' for name in PLUGINS),
        "stack=log:NFLOG,base:BASE,index:IFINDEX,address:IP2STR,print:PRINTPKT,out:LOGEMU",
        "[log]",
        f"group={GROUP}",
        "[out]",
        f'file="{FOLDER}/lines"',
        "sync=1",
    ]
)
#: Each starts a reader in the background, which ends by itself, and returns when it reads.
READERS = {
    "ulogd2": f"""
        mkdir -p {FOLDER} && echo '{CONFIGURATION}' > {FOLDER}/conf
        ulogd -c {FOLDER}/conf -d -p {FOLDER}/pid >/dev/null 2>&1
        for i in $(seq 100); do [ -s {FOLDER}/pid ] && exit; sleep 0.1; done; exit 1""",
    "tcpdump": f"""
        timeout 60 tcpdump -nl -i nflog:{GROUP} >{FOLDER}/lines 2>{FOLDER}/err & echo $! >{FOLDER}/pid
        for i in $(seq 100); do grep -q listening {FOLDER}/err && exit; sleep 0.1; done; exit 1""",
    "bridgewarden log": f"""
        cd /root/engine
        timeout 60 python3 -u -c "from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.main import main; main()" \\
            log --json >{FOLDER}/lines 2>{FOLDER}/err & echo $! >{FOLDER}/pid
        for i in $(seq 200); do awk '$1 == {GROUP} {{ found = 1 }} END {{ exit !found }}' \\
            /proc/net/netfilter/nfnetlink_log && exit; sleep 0.1; done; cat {FOLDER}/err >&2; exit 1""",
}
RULES = (
    {
        "name": "loudly",
        "action": "deny",
        "from": ["any"],
        "to": ["container:alpha"],
        "ports": ["8080/tcp"],
        "log": True,
    },
    {"name": "softly", "action": "deny", "from": ["any"], "to": ["container:alpha"], "ports": ["8081/tcp"]},
    {"name": "opened", "from": ["any"], "to": ["container:alpha"], "ports": ["8090/tcp"], "log": True},
)
PROBES = (("beta", ALPHA, 8080), ("beta", ALPHA, 8081), ("office", UPLINK, 18080), ("beta", ALPHA, 9000))
#: Tried after them: once its line is there, theirs are. How each reader writes its port.
LAST = ("beta", ALPHA[4], 9009)
LAST_LINE = r'(DPT=|\.|"to_port": )9009\b'


@pytest.fixture(scope="module", params=READERS)
def read(request: Any, bench: Bench) -> tuple[str, list[str]]:
    bench.commit(*RULES, log_group=GROUP, log_defaults=True)
    bench.sh(command=f"rm -rf {FOLDER}; mkdir -p {FOLDER}")
    bench.sh(command=f"({READERS[request.param]})")
    assert bench.reach(*PROBES) == ["timeout timeout"] * len(PROBES)
    bench.reach(LAST, seconds=0.3)
    found = bench.sh(
        command=f"""for i in $(seq 600); do grep -qE '{LAST_LINE}' {FOLDER}/lines && break; sleep 0.1; done
            pid=$(cat {FOLDER}/pid); kill $pid; cat {FOLDER}/lines
            for i in $(seq 100); do [ -d /proc/$pid ] || exit 0; sleep 0.1; done; exit 1"""
    )
    lines = found["out"].splitlines()
    assert re.search(LAST_LINE, found["out"]), lines
    return request.param, lines


def matching(lines: list[str], *words: str) -> list[str]:
    return [line for line in lines if all(word in line for word in words)]


def test_the_packet(read: tuple[str, list[str]]) -> None:
    reader, lines = read
    for v in (4, 6):
        if reader == "ulogd2":
            # it writes IPv6 addresses in a form of its own
            words = [f"SRC={BETA[4]} DST={ALPHA[4]}"] if v == 4 else ["fd00:", "PROTO=TCP"]
            words += ["DPT=8080", "bridgewarden: deny inter_container rule loudly"]
        elif reader == "tcpdump":
            words = [f"{BETA[v]}.", f"{ALPHA[v]}.8080", "Flags [S]"]
        else:
            words = [f'"from": "{BETA[v]}"', f'"to": "{ALPHA[v]}"', '"to_port": 8080', '"rule": "loudly"']
        assert matching(lines, *words), (words, lines)


def test_a_rule_without_log_is_silent(read: tuple[str, list[str]]) -> None:
    reader, lines = read
    port = {"ulogd2": "DPT=8081 ", "tcpdump": ".8081:", "bridgewarden log": '"to_port": 8081'}[reader]
    assert not matching(lines, port)


def test_what_no_rule_speaks_of_is_logged_if_wanted(read: tuple[str, list[str]]) -> None:
    reader, lines = read
    words = {
        "ulogd2": ["bridgewarden: deny inter_container default", "DPT=9000"],
        "tcpdump": [f"{ALPHA[4]}.9000"],
        "bridgewarden log": ['"reason": "default"', '"to_port": 9000'],
    }[reader]
    assert matching(lines, *words)


def test_the_command_names_containers(read: tuple[str, list[str]]) -> None:
    reader, lines = read
    if reader == "bridgewarden log":
        records = [json.loads(line) for line in lines]
        named = {(record["from_container"], record["to_container"], record["class"]) for record in records}
        assert {("beta", "alpha", "inter_container"), (None, "alpha", "ingress")} <= named
