# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a trace's events to paths: one packet's way, and one sentence on what became of it.

Pure: lines of the kernel's trace in, records out.  A packet is known by its
place in memory and by a fingerprint of what no NAT changes; both are needed,
because the kernel uses the place again at once.  An event that cannot follow
what a path has seen begins another path: nothing is joined on a guess.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX, DirectionClass
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import PROTOCOL_NAMES
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: With those that a trace shows and no rule can name (https://www.iana.org/assignments/protocol-numbers).
_PROTOCOLS = {**PROTOCOL_NAMES, 2: "igmp", 47: "gre", 50: "esp"}
_FLAGS = ((0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x20, "URG"))
CLASSES = tuple(which.name.lower() for which in DirectionClass)
# A device's name may hold any byte but the kernel's blanks, "/" and ":", so words end at ASCII blanks alone: a Unicode
# blank in a name would begin a field of the namer's choice. A process name is too short (15 bytes) to hold what _LINE seeks.
_LINE = re.compile(r"\s(\d+\.\d+): (bw_crossing|bw_verdict|kfree_skb): (.*)$", re.ASCII)
_WORD = re.compile(r"(\w+)[=:] ?(\S+)", re.ASCII)
_LOCATION = re.compile(r"location=([A-Za-z_][\w.]*)\S*( \[\w+\])?", re.ASCII)
#: Of the records: grows by fields, changes its number where one changes its meaning.
RECORD_SCHEMA = 1
#: Where a packet may be seen next in a namespace.
_NEXT = {
    "PRE_ROUTING": ("LOCAL_IN", "FORWARD"),
    "FORWARD": ("POST_ROUTING",),
    "LOCAL_OUT": ("POST_ROUTING",),
    # IPVS sends on what it takes at LOCAL_IN.
    "LOCAL_IN": ("FORWARD", "LOCAL_OUT", "POST_ROUTING"),
    "POST_ROUTING": (),
}
#: What the kernel calls the end of a packet that has reached its socket, or tells nothing by: no drop.
_READ = ("", "NOT_SPECIFIED", "SKB_CONSUMED", "QUEUE_PURGE")

#: Outcomes that say only where a packet was seen last.
ENDINGS = ("lost", "sent", "queued")


def parse_event(line: str) -> t.Optional[Json]:
    """One line of a trace; None for what is no event of ours."""
    found = _LINE.search(line)
    if not found:
        return None
    body = found.group(3)
    rule = ""
    if found.group(2) == "bw_verdict":
        body, _mark, rule = body.partition(" rule=")
    words = dict(_WORD.findall(body))
    event: Json = {"event": found.group(2)[3:], "time": float(found.group(1))}
    if found.group(2) == "kfree_skb":
        location = _LOCATION.search(body)
        return {
            **event,
            "event": "drop",
            "skb": words.get("skbaddr", ""),
            "reason": words.get("reason", ""),
            # Some kernels (5.10) tell a hashed address here, which says nothing.
            "location": "".join(location.groups("")) if location and "+" in location.group(0) else "",
        }
    event.update(
        trace=int(words["trace"]),
        skb=words["skb"],
        print=words["print"],
        family="IPv4" if words["pf"] == "2" else "IPv6",
        hook=words["hook"],
        netns=int(words["netns"]),
    )
    return _verdict(event, words, rule) if event["event"] == "verdict" else _crossing(event, words)


def _verdict(event: Json, words: t.Dict[str, str], rule: str) -> Json:
    number = int(words["class"])
    index = int(words["index"])
    event.update(
        action=words["action"],
        audit=words["audit"] == "1",
        direction_class=CLASSES[number] if number < len(CLASSES) else "",
        index=index,
        rule=rule if index >= REASON_MAX else "",
        reason="" if index >= REASON_MAX else rule,
    )
    return event


def _crossing(event: Json, words: t.Dict[str, str]) -> Json:
    number = int(words["proto"])
    protocol = _PROTOCOLS.get(number, "proto:%d" % number)
    ports = protocol in ("tcp", "udp", "sctp")
    event.update(
        position="last" if words["last"] == "1" else "first",
        cookie=int(words["cookie"]),
        dev=_device(words["dev"]),
        **{"in": _device(words["in"]), "out": _device(words["out"])},
        port_in=int(words["physin"]) or None,
        port_out=int(words["physout"]) or None,
        protocol=protocol,
        **{"from": _address(words["src"]), "to": _address(words["dst"])},
        from_port=int(words["sport"]) if ports else None,
        to_port=int(words["dport"]) if ports else None,
        icmp_type=int(words["sport"]) if protocol in ("icmp", "icmpv6") else None,
        icmp_code=int(words["dport"]) if protocol in ("icmp", "icmpv6") else None,
        flags=[name for bit, name in _FLAGS if protocol == "tcp" and int(words["flags"], 16) & bit],
        ct=words["ct"].replace("-reply", ""),
        reply=words["ct"].endswith("-reply"),
        zone=int(words["zone"]),
        ctid=int(words["ctid"]),
        mark=int(words["mark"], 16),
        len=int(words["len"]),
    )
    return event


def _device(word: str) -> t.Optional[str]:
    return word.partition(":")[2] or None


def _address(word: str) -> str:
    address = ipaddress.ip_address(word)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def end_text(crossing: Json, side: str) -> str:
    address, port = crossing[side], crossing[side + "_port"]
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def detail_text(crossing: Json) -> str:
    """ "tcp SYN", "icmp 8/0", "udp"."""
    if crossing["flags"]:
        return f"{crossing['protocol']} {','.join(crossing['flags'])}"
    if crossing["icmp_type"] is not None:
        return "%s %d/%d" % (crossing["protocol"], crossing["icmp_type"], crossing["icmp_code"])
    return str(crossing["protocol"])


# Threading.


class Journey:
    """One packet's way; `steps` are its events in time."""

    def __init__(self, first: Json) -> None:
        self.steps: t.List[Json] = [first]
        self.crossings: t.List[Json] = [first]
        self.conversation = 0

    @property
    def seen(self) -> float:
        return float(self.steps[-1]["time"])

    def takes(self, event: Json) -> bool:
        """Whether the crossing can come after what the path has seen."""
        last = self.crossings[-1]
        here, there = (last["netns"], last["hook"]), (event["netns"], event["hook"])
        if here == there:
            return bool(last["position"] == "first" and event["position"] == "last")
        if event["position"] == "last":
            return False
        if here[0] == there[0] and there[1] in _NEXT[here[1]]:
            return True
        # Over a link, into another namespace or, by loopback, into the same one.
        return bool(here[1] == "POST_ROUTING" and there[1] == "PRE_ROUTING")

    def add(self, event: Json) -> None:
        self.steps.append(event)
        if event["event"] == "crossing":
            self.crossings.append(event)

    @property
    def queued(self) -> bool:
        return any(s["event"] == "verdict" and s["action"] == "queue" and not s["audit"] for s in self.steps)


class Threader:
    """Takes events in their order, gives paths when nothing more is to be expected of them."""

    #: Seconds without an event after which a path is complete; a queued packet may wait for its listener.
    IDLE, QUEUED = 0.4, 10.0

    def __init__(self) -> None:
        self._open: t.Dict[t.Tuple[str, str], Journey] = {}
        self._by_skb: t.Dict[str, Journey] = {}
        self._tuples: t.Dict[t.Any, int] = {}
        self._conversations = 0
        self.unmatched_drops = 0

    def add(self, event: Json) -> t.List[Journey]:
        """The paths that this event shows to be complete."""
        if event["event"] == "drop":
            path = self._by_skb.get(event["skb"])
            if path is None or path.steps[-1]["event"] == "drop":
                self.unmatched_drops += 1
            else:
                path.add(event)
            return []
        key = (event["skb"], event["print"])
        path = self._open.get(key)
        if event["event"] == "verdict":
            if path is not None:
                path.add(event)
            return []
        done = []
        if path is not None and not path.takes(event):
            done.append(self._close(key))
            path = None
        if path is None:
            path = self._open[key] = Journey(event)
        else:
            path.add(event)
        self._by_skb[event["skb"]] = path
        self._converse(path, event)
        return done

    def idle(self, now: float) -> t.List[Journey]:
        """The paths that nothing has been heard of for long enough."""
        keys = [
            key
            for key, path in self._open.items()
            if now - path.seen > (self.QUEUED if path.queued else self.IDLE)
        ]
        return sorted((self._close(key) for key in keys), key=lambda path: float(path.steps[0]["time"]))

    def rest(self) -> t.List[Journey]:
        return sorted(
            (self._close(key) for key in list(self._open)), key=lambda path: float(path.steps[0]["time"])
        )

    def _close(self, key: t.Tuple[str, str]) -> Journey:
        path = self._open.pop(key)
        if self._by_skb.get(key[0]) is path:
            del self._by_skb[key[0]]
        return path

    def _converse(self, path: Journey, event: Json) -> None:
        """Packets that ever had the same two ends are one conversation: NAT shows both names of it in one path."""
        ends = frozenset(
            ((event["from"], event["from_port"]), (event["to"], event["to_port"]), event["protocol"])
        )
        number = path.conversation or self._tuples.get(ends, 0)
        if not number:
            self._conversations += 1
            number = self._conversations
        path.conversation = number
        self._tuples.setdefault(ends, number)


# What became of it.


class Places(t.NamedTuple):
    """What the sentences need to know of the host."""

    #: Inode of a namespace to its name; the host's is "host".
    names: t.Mapping[int, str]
    #: (protocol, host port) to (container, its port): where docker-proxy listens.
    proxies: t.Mapping[t.Tuple[str, int], t.Tuple[str, int]] = {}
    #: (one namespace, other namespace, family) to why the host sees nothing between them.
    unseen: t.Callable[[str, str, str], str] = lambda one, other, family: ""
    #: Namespace's inode to the functions at its hooks: (family, hook) to [who].
    others: t.Mapping[int, t.Mapping[t.Tuple[str, str], t.Sequence[str]]] = {}

    def name(self, netns: int) -> str:
        return self.names.get(netns, "netns:%d" % netns)


def journey_record(
    path: Journey, number: int, places: Places, origin: float = 0.0, cut: bool = False
) -> Json:
    """The path as data: what --json prints and a module returns.

    `origin` is added to the trace's clock; `cut` says that the trace ended while the packet may have been under way.
    """
    crossings = path.crossings
    outcome, sentence = _outcome(path, places)
    if cut and outcome in ENDINGS:
        last = crossings[-1]
        outcome = "unfinished"
        sentence = (
            f"on its way when the trace ended: last seen at {last['hook']} of {places.name(last['netns'])}"
        )
    aside = _unseen(crossings, places)
    if aside:
        sentence = f"{sentence}; {aside}"
    return {
        "id": number,
        "conversation": path.conversation,
        "time": round(origin + crossings[0]["time"], 6),
        "seconds": round(path.seen - crossings[0]["time"], 6),
        "family": crossings[0]["family"],
        "protocol": crossings[0]["protocol"],
        "detail": detail_text(crossings[0]),
        "from": end_text(crossings[0], "from"),
        "to": end_text(crossings[0], "to"),
        "reply": any(crossing["reply"] for crossing in crossings),
        "namespaces": _visited(crossings, places),
        "nat": _translations(crossings, places),
        "outcome": outcome,
        "sentence": sentence,
        "steps": [_step(step, places, origin) for step in path.steps],
    }


def _step(step: Json, places: Places, origin: float) -> Json:
    shown = dict(step, time=round(origin + step["time"], 6))
    if "netns" in step:
        shown["namespace"] = places.name(step["netns"])
    return shown


def _visited(crossings: t.Sequence[Json], places: Places) -> t.List[str]:
    names: t.List[str] = []
    for crossing in crossings:
        name = places.name(crossing["netns"])
        if not names or names[-1] != name:
            names.append(name)
    return names


def _translations(crossings: t.Sequence[Json], places: Places) -> t.List[Json]:
    """Where an address or a port has changed since the crossing before."""
    found = []
    for before, after in zip(crossings, crossings[1:]):
        for side, word in (("from", "source"), ("to", "destination")):
            old, new = end_text(before, side), end_text(after, side)
            if old == new:
                continue
            where = before if before["netns"] == after["netns"] else after
            found.append(
                {
                    "what": word,
                    "old": old,
                    "new": new,
                    "namespace": places.name(where["netns"]),
                    "hook": where["hook"],
                }
            )
    return found


def _outcome(path: Journey, places: Places) -> t.Tuple[str, str]:
    last = path.crossings[-1]
    judged = _final_verdict(path)
    if judged is not None and judged["action"] == "queue" and _is_behind(path, judged):
        judged = None
    # A bridge's own hook judges what the IP hooks are not shown.
    stop = judged or last
    where = f"{stop['hook']} of {places.name(stop['netns'])}"
    if judged is not None:
        by = f'rule "{judged["rule"]}"' if judged["rule"] else f'the built-in "{judged["reason"]}"'
        if judged["action"] == "queue":
            return "queued", f"queued at {where} by {by}, and not heard of since"
        word = "rejected" if judged["action"] == "reject" else "dropped"
        return word, f"{word} at {where} by {by}"
    drop = next((step for step in path.steps if step["event"] == "drop"), None)
    if last["position"] == "first":
        return _stopped_within(last, drop, where, places)
    if drop is not None and drop["reason"] not in _READ:
        return _stopped_behind(last, drop, where, places)
    return _arrived(last, places)


def _final_verdict(path: Journey) -> t.Optional[Json]:
    """What the engine did to the packet: its last verdict that is more than a look."""
    for step in reversed(path.steps):
        if step["event"] == "verdict" and step["action"] != "allow" and not step["audit"]:
            return step
    return None


def _is_behind(path: Journey, step: Json) -> bool:
    """Whether the path goes on behind the step."""
    return any(later["event"] == "crossing" for later in path.steps[path.steps.index(step) + 1 :])


def _stopped_within(last: Json, drop: t.Optional[Json], where: str, places: Places) -> t.Tuple[str, str]:
    others = places.others.get(last["netns"], {}).get((last["family"], last["hook"]), ())
    among = ": " + ", ".join(others) if others else ""
    if drop is None:
        return "lost", f"lost at {where}: taken or held by somebody there{among}"
    if drop["location"]:
        return "dropped", f"dropped at {where} by {drop['location']}, another netfilter user"
    return "dropped", f"dropped at {where} by another netfilter user{among}"


def _stopped_behind(last: Json, drop: Json, where: str, places: Places) -> t.Tuple[str, str]:
    name = places.name(last["netns"])
    if last["hook"] != "LOCAL_IN":
        return "dropped", f"dropped behind {where} by the kernel: {drop['reason']}"
    if drop["reason"] == "NO_SOCKET":
        return "refused", f"reached {name}, where no socket listens"
    if drop["reason"].startswith("TCP_") and drop["reason"] != "TCP_CSUM":
        return "delivered", f"delivered to {name}, whose socket had no use for it: {drop['reason']}"
    return "dropped", f"reached {name}, whose kernel dropped it: {drop['reason']}"


def _arrived(last: Json, places: Places) -> t.Tuple[str, str]:
    name = places.name(last["netns"])
    if last["hook"] == "LOCAL_IN":
        proxied = places.proxies.get((last["protocol"], last["to_port"])) if name == "host" else None
        if proxied:
            return "proxied", "went to docker-proxy, which connects to %s port %d by itself" % proxied
        return "delivered", f"delivered to {name}"
    if last["hook"] == "POST_ROUTING":
        return "sent", f"left {name} through {last['out']}, and was not seen in another namespace"
    return "lost", f"lost behind {last['hook']} of {name}: routing found no way, or refused it"


def _unseen(crossings: t.Sequence[Json], places: Places) -> str:
    """From one namespace straight into another, and the host between them saw nothing."""
    if any(places.name(crossing["netns"]) == "host" for crossing in crossings):
        return ""
    for before, after in zip(crossings, crossings[1:]):
        one, other = places.name(before["netns"]), places.name(after["netns"])
        if one != other:
            why = places.unseen(one, other, before["family"])
            if why:
                return f"never reached the host's netfilter because {why}"
    return ""
