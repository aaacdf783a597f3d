# SPDX-License-Identifier: GPL-3.0-or-later
"""Events to paths. The lines in data/ were written by the module on Linux 6.12, about the containers of molecule/_engine."""

from __future__ import annotations

import ipaddress
import typing as t
from pathlib import Path as File

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import (
    Journey,
    Places,
    Threader,
    journey_record,
    parse_event,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json
from hypothesis import example, given
from hypothesis import strategies as st

DATA = File(__file__).parent / "data"
NAMES = {4026531840: "host", 1: "host", 2: "web", 3: "db"}
BRIDGE_OFF = "bridge-nf-call-iptables is 0 on br-left"


def names_in(events: t.Sequence[Json]) -> t.Dict[int, str]:
    """The recorded machine's namespaces, by an address that only one of them has on its eth0."""
    known = {
        "172.28.1.10": "alpha",
        "172.28.1.11": "beta",
        "10.10.10.3": "office",
        "fd00:db8:11::10": "alpha",
        "2001:db8:10::3": "office",
    }
    found: t.Dict[int, str] = {}
    for event in events:
        if event["event"] == "crossing" and event["hook"] == "LOCAL_OUT" and event["from"] in known:
            found[event["netns"]] = known[event["from"]]
        if event["event"] == "crossing" and event["hook"] == "LOCAL_IN" and event["to"] in known:
            found[event["netns"]] = known[event["to"]]
    for event in events:
        if event.get("dev") in ("up0",) or (event.get("dev") or "").startswith(("br-", "veth")):
            found[event["netns"]] = "host"
        elif event.get("dev") == "lan0":
            found[event["netns"]] = "lan"
    return found


def recorded(name: str, **places: t.Any) -> t.List[Json]:
    events = [e for e in map(parse_event, (DATA / f"{name}.txt").read_text().splitlines()) if e]
    return threaded(events, Places(names_in(events), **places))


def threaded(events: t.Sequence[Json], places: Places) -> t.List[Json]:
    threader = Threader()
    paths: t.List[Journey] = []
    for event in events:
        paths += threader.add(event)
    paths += threader.rest()
    paths.sort(key=lambda path: float(path.steps[0]["time"]))
    return [journey_record(path, i, places) for i, path in enumerate(paths, 1)]


def rows(path: Json) -> t.List[t.Tuple[str, ...]]:
    return [
        (s["namespace"], s["hook"], s["in"] or "-", s["out"] or "-", s["to"])
        for s in path["steps"]
        if s["event"] == "crossing" and s["position"] == "first"
    ]


def test_outside_to_a_published_port() -> None:
    syn, answer = recorded("published")[:2]
    bridge = "br-b2bf9181845d"
    assert [row for row in rows(syn) if row[0] in ("host", "alpha")] == [
        ("host", "PRE_ROUTING", "up0", "-", "10.10.10.2"),
        ("host", "FORWARD", "up0", bridge, "172.28.1.10"),
        ("host", "POST_ROUTING", "up0", bridge, "172.28.1.10"),
        ("alpha", "PRE_ROUTING", "eth0", "-", "172.28.1.10"),
        ("alpha", "LOCAL_IN", "eth0", "-", "172.28.1.10"),
    ]
    assert syn["sentence"] == "delivered to alpha"
    assert syn["namespaces"] == ["office", "lan", "host", "alpha"]
    assert syn["nat"] == [
        {
            "what": "destination",
            "old": "10.10.10.2:18080",
            "new": "172.28.1.10:8080",
            "namespace": "host",
            "hook": "PRE_ROUTING",
        }
    ]
    assert answer["nat"][0]["what"] == "source" and answer["nat"][0]["hook"] == "POST_ROUTING"
    assert answer["detail"] == "tcp SYN,ACK" and answer["reply"]
    assert answer["conversation"] == syn["conversation"]


@pytest.mark.parametrize("setting, host", [("0", 0), ("1", 3)])
def test_same_bridge(setting: str, host: int) -> None:
    def unseen(one: str, other: str, family: str) -> str:
        assert {one, other} == {"alpha", "beta"} and family == "IPv4"
        return BRIDGE_OFF

    syn = recorded("bridge" + setting, unseen=unseen)[0]
    assert len([row for row in rows(syn) if row[0] == "host"]) == host
    aside = "" if host else f"; never reached the host's netfilter because {BRIDGE_OFF}"
    assert syn["sentence"] == "delivered to alpha" + aside


def test_dropped_by_somebody_else() -> None:
    (path,) = recorded("nftdrop")
    assert path["outcome"] == "dropped"
    assert (
        path["sentence"] == "dropped at FORWARD of host by nft_do_chain [nf_tables], another netfilter user"
    )


def test_nobody_listens() -> None:
    assert recorded("nosocket")[0]["sentence"] == "reached alpha, where no socket listens"


def test_docker_proxy() -> None:
    paths = recorded("proxy", proxies={("tcp", 18080): ("alpha", 8080)})
    syns = [path for path in paths if path["detail"] == "tcp SYN"]
    assert [path["sentence"] for path in syns] == [
        "went to docker-proxy, which connects to alpha port 8080 by itself",
        "delivered to alpha",
    ]
    assert syns[0]["conversation"] != syns[1]["conversation"]


def test_icmp_is_told_by_type() -> None:
    path = recorded("ping")[0]
    assert (path["detail"], path["from"], path["sentence"]) == (
        "icmp 8/0",
        "172.28.1.10",
        "delivered to beta",
    )


# Made events.


def crossing(
    at: float, netns: int, hook: str, last: bool = False, skb: str = "s", print: str = "p", **more: t.Any
) -> Json:
    event = {
        "event": "crossing", "time": at, "trace": 1, "skb": skb, "print": print, "family": "IPv4", "hook": hook,
        "netns": netns, "position": "last" if last else "first", "cookie": 0, "dev": None, "in": None, "out": None,
        "port_in": None, "port_out": None, "protocol": "tcp", "from": "10.0.0.1", "to": "10.0.0.2", "from_port": 1,
        "to_port": 80, "icmp_type": None, "icmp_code": None, "flags": ["SYN"], "ct": "new", "reply": False, "zone": 0,
        "ctid": 0, "mark": 0, "len": 60,
    }  # fmt: skip
    return {**event, **more}


def visit(at: float, netns: int, *hooks: str, **more: t.Any) -> t.List[Json]:
    return [
        crossing(at + i / 100, netns, hook, last, **more)
        for i, hook in enumerate(hooks)
        for last in (False, True)
    ]


def verdict(at: float, action: str, rule: str = "r", hook: str = "FORWARD", **more: t.Any) -> Json:
    event = {
        "event": "verdict", "time": at, "trace": 1, "skb": "s", "print": "p", "family": "IPv4", "hook": hook, "netns": 1,
        "action": action, "audit": False, "direction_class": "ingress", "index": REASON_MAX if rule else 1, "rule": rule,
        "reason": "" if rule else "default",
    }  # fmt: skip
    return {**event, **more}


def drop(at: float, reason: str = "", location: str = "", skb: str = "s") -> Json:
    return {"event": "drop", "time": at, "skb": skb, "reason": reason, "location": location}


def sentences(*events: Json, **places: t.Any) -> t.List[str]:
    return [path["sentence"] for path in threaded(events, Places(NAMES, **places))]


TO_FORWARD = [*visit(1, 1, "PRE_ROUTING"), crossing(1.1, 1, "FORWARD")]


def test_the_engines_verdict_is_told_with_its_rule() -> None:
    assert sentences(*TO_FORWARD, verdict(1.2, "deny", "no one"), drop(1.3, "NETFILTER_DROP")) == [
        'dropped at FORWARD of host by rule "no one"'
    ]
    assert sentences(*TO_FORWARD, verdict(1.2, "reject", "")) == [
        'rejected at FORWARD of host by the built-in "default"'
    ]


def test_a_verdict_at_the_bridge_is_told_where_it_was_given() -> None:
    sent = [*visit(1, 2, "LOCAL_OUT", "POST_ROUTING")]
    assert sentences(*sent, verdict(1.2, "deny", rule="", index=16, reason="unseen")) == [
        'dropped at FORWARD of host by the built-in "unseen"'
    ]


def test_the_numbers_below_the_rules_are_reasons() -> None:
    line = (
        " p-1 [000] 1.5: bw_verdict: trace=1 skb=00s print=00 pf=2 hook=FORWARD netns=1 action=deny class=255"
        " audit=0 index=%d rule=%s"
    )
    found = [parse_event(line % one) for one in ((16, "unseen"), (REASON_MAX, "web"))]
    assert [(one["reason"], one["rule"]) for one in found if one] == [("unseen", ""), ("", "web")]


def test_audit_drops_nothing() -> None:
    through = [*TO_FORWARD, verdict(1.2, "deny", audit=True), crossing(1.3, 1, "FORWARD", True)]
    assert sentences(*through, *visit(1.4, 1, "POST_ROUTING"), *visit(2, 2, "PRE_ROUTING", "LOCAL_IN")) == [
        "delivered to web"
    ]


def test_a_queue_that_lets_go_and_one_that_does_not() -> None:
    held = [*TO_FORWARD, verdict(1.2, "queue")]
    assert sentences(*held) == ['queued at FORWARD of host by rule "r", and not heard of since']
    on = [
        crossing(5, 1, "FORWARD", True),
        *visit(5.1, 1, "POST_ROUTING"),
        *visit(6, 2, "PRE_ROUTING", "LOCAL_IN"),
    ]
    assert sentences(*held, *on) == ["delivered to web"]


def test_a_queued_packet_is_waited_for() -> None:
    threader = Threader()
    for event in [*TO_FORWARD, verdict(1.2, "queue")]:
        threader.add(event)
    assert threader.idle(5.0) == [] and len(threader.idle(12.0)) == 1


def test_without_a_reason_those_who_stand_there_are_named() -> None:
    others = {1: {("IPv4", "FORWARD"): ["ipt_do_table [ip_tables] at 0"]}}
    assert sentences(*TO_FORWARD, drop(1.2), others=others) == [
        "dropped at FORWARD of host by another netfilter user: ipt_do_table [ip_tables] at 0"
    ]
    assert sentences(*TO_FORWARD, others=others) == [
        "lost at FORWARD of host: taken or held by somebody there: ipt_do_table [ip_tables] at 0"
    ]


def test_routing_refuses() -> None:
    assert sentences(*visit(1, 1, "PRE_ROUTING"), drop(1.2, "IP_RPFILTER")) == [
        "dropped behind PRE_ROUTING of host by the kernel: IP_RPFILTER"
    ]
    assert sentences(*visit(1, 1, "PRE_ROUTING")) == [
        "lost behind PRE_ROUTING of host: routing found no way, or refused it"
    ]


def test_what_sockets_do_is_no_drop_on_the_way() -> None:
    arrived = visit(1, 2, "PRE_ROUTING", "LOCAL_IN")
    for reason in ("", "QUEUE_PURGE", "NOT_SPECIFIED"):
        assert sentences(*arrived, drop(1.5, reason)) == ["delivered to web"]
    assert sentences(*arrived, drop(1.5, "TCP_OLD_DATA")) == [
        "delivered to web, whose socket had no use for it: TCP_OLD_DATA"
    ]
    assert sentences(*arrived, drop(1.5, "UDP_CSUM")) == ["reached web, whose kernel dropped it: UDP_CSUM"]


def test_the_same_memory_again_is_another_packet() -> None:
    arrived = visit(1, 2, "PRE_ROUTING", "LOCAL_IN")
    # Another content; and the same content sent again, which must not be joined either.
    assert len(sentences(*arrived, *visit(2, 3, "LOCAL_OUT", "POST_ROUTING", print="q"))) == 2
    assert len(sentences(*arrived, *visit(2, 2, "PRE_ROUTING", "LOCAL_IN"))) == 2
    assert len(sentences(*arrived, *visit(2, 3, "LOCAL_OUT", "POST_ROUTING"))) == 2


def test_a_gap_is_not_joined_over() -> None:
    # POST_ROUTING of the host is missing: what web sees may be something else.
    paths = threaded(
        [*visit(1, 1, "PRE_ROUTING", "FORWARD"), *visit(2, 2, "PRE_ROUTING", "LOCAL_IN")], Places(NAMES)
    )
    assert [path["namespaces"] for path in paths] == [["host"], ["web"]]


def test_loopback_is_one_path() -> None:
    events = [*visit(1, 2, "LOCAL_OUT", "POST_ROUTING"), *visit(2, 2, "PRE_ROUTING", "LOCAL_IN")]
    assert sentences(*events) == ["delivered to web"]


def test_a_link_to_nowhere() -> None:
    events = visit(1, 1, "PRE_ROUTING", "FORWARD") + visit(1.5, 1, "POST_ROUTING", out="up0")
    assert sentences(*events) == ["left host through up0, and was not seen in another namespace"]


def test_what_was_under_way_is_not_called_lost() -> None:
    path = Journey(TO_FORWARD[0])
    for event in TO_FORWARD[1:]:
        path.add(event)
    made = journey_record(path, 1, Places(NAMES), cut=True)
    assert made["sentence"] == "on its way when the trace ended: last seen at FORWARD of host"
    path.add(verdict(1.2, "deny", "no one"))
    assert journey_record(path, 1, Places(NAMES), cut=True)["outcome"] == "dropped"


def test_drops_of_strangers_are_counted_not_joined() -> None:
    threader = Threader()
    for event in [*TO_FORWARD, drop(1.2, skb="other")]:
        threader.add(event)
    assert threader.unmatched_drops == 1
    assert [step["event"] for step in threader.rest()[0].steps].count("drop") == 0


def test_a_namespace_nobody_knows_has_its_number() -> None:
    assert sentences(*visit(1, 77, "PRE_ROUTING", "LOCAL_IN")) == ["delivered to netns:77"]


LINES = (
    ("  x-1 [000] ..s1.  1.5: kfree_skb: skbaddr=00ab protocol=2048 location=00000000d2d1c5f1", ("drop", "00ab", "", "")),
    ("  x-1 [000] ..s1.  1.5: kfree_skb: skbaddr=00ab protocol=2048 location=ffff reason: NO_SOCKET", ("drop", "00ab", "NO_SOCKET", "")),
    ("  x-1 [000] .....  1.5: kfree_skb: skbaddr=00ab rx_sk=0 protocol=8 location=nft_do_chain+0x4/0x6 [nf_tables] reason: NETFILTER_DROP",
     ("drop", "00ab", "NETFILTER_DROP", "nft_do_chain [nf_tables]")),
)  # fmt: skip


@pytest.mark.parametrize("line, want", LINES)
def test_drops_as_different_kernels_tell_them(line: str, want: t.Tuple[str, ...]) -> None:
    event = parse_event(line)
    assert event and (event["event"], event["skb"], event["reason"], event["location"]) == want


def test_a_rules_name_may_hold_anything() -> None:
    line = (
        "  x-1 [000] ..s1.  2.5: bw_verdict: trace=1 skb=ab print=01 pf=10 hook=FORWARD netns=5 action=deny class=0 audit=0 "
        "index=65 rule=from=me trace=9 rule=x"
    )
    event = parse_event(line)
    assert event and event["rule"] == "from=me trace=9 rule=x" and event["trace"] == 1 and event["netns"] == 5


def test_other_lines_are_nobodys() -> None:
    assert parse_event("CPU:0 [LOST 12 EVENTS]") is None and parse_event("") is None


# What a line says that other people's names are in.

#: What dev_valid_name() of the kernel refuses in a link's name; its isspace() knows the no-break space of Latin-1.
NO_LINK_NAME = b"\0/:\t\n\v\f\r \xa0"
link_names = (
    st.lists(st.integers(1, 255).filter(lambda byte: byte not in NO_LINK_NAME), max_size=15)
    .map(bytes)
    .filter(lambda name: name not in (b".", b".."))
)
#: PR_SET_NAME takes any bytes.
process_names = st.lists(st.integers(1, 255), max_size=15).map(bytes)


def traced_lines(process: bytes, event: bytes) -> t.List[str]:
    """As the kernel writes them and tracefs.Instance cuts them."""
    text = b"%16s-2877    [000] .....  1821.590053: %s\n" % (process, event)
    return [line.decode("utf-8", "replace") for line in text.split(b"\n")]


def events_in(lines: t.Sequence[str]) -> t.List[Json]:
    return [event for event in map(parse_event, lines) if event]


@given(process_names, link_names, link_names, link_names)
@example(b"sh", "e\u2003netns=1".encode(), b"", b"")
@example(b"sh", b"", b"e\x1cnetns=1", b"")
@example(b"sh", b"", b"", "e\u3000trace=1".encode())
@example(b"sh", b"netns=1", b"in=5", b"len=1")
@example(b" 1.0: kfree_skb", b"", b"", b"")
@example(b"a\n 1.0: kfree_s", b"", b"", b"")
def test_a_name_in_a_line_changes_no_other_field(
    process: bytes, dev: bytes, inner: bytes, outer: bytes
) -> None:
    body = (
        b"bw_crossing: trace=3 skb=00000000faf59bfb print=923f6ddd pf=2 hook=FORWARD last=0 netns=4026532260 "
        b"cookie=3 dev=7:%s in=8:%s out=9:%s physin=0 physout=0 proto=6 src=::ffff:10.10.10.3 "
        b"dst=::ffff:10.10.10.2 sport=42716 dport=18080 flags=02 ct=none zone=0 ctid=0 mark=0 len=60"
    )
    (plain,) = events_in(traced_lines(b"sh", body % (b"", b"", b"")))
    (event,) = events_in(traced_lines(process, body % (dev, inner, outer)))
    said = {"dev": dev, "in": inner, "out": outer}
    for key, name in said.items():
        assert event[key] == (name.decode("utf-8", "replace") or None)
    assert {key: event[key] for key in event if key not in said} == {
        key: plain[key] for key in plain if key not in said
    }
    assert event["netns"] == 4026532260 and ipaddress.ip_address(event["from"])


def test_a_number_in_other_digits_is_no_event() -> None:
    assert parse_event("  sh-1 [000] ..... \u0661.\u0660: bw_crossing: trace=3") is None
