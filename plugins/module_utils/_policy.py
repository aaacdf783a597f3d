# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired policy: what an operator may write, and its one normal form.

`normalise()` takes the plain object of the inventory and either returns a
`Policy` or raises a PolicyError whose path leads to the offending value; there
is nothing in between and no guess.  The normal form does not depend on the
order of rules or lists, because the language does not either.  Runs on the
controller and on the target, knows nothing of Docker.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Path,
    PolicyError,
    did_you_mean,
    path_text,
)

Json = t.Dict[str, t.Any]
Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Service = t.Tuple[int, int]  # lo, hi of the 24-bit service number, both included

MODES = ("enforce", "audit")
PLACEMENTS = ("forward", "postrouting", "container")
#: The most restrictive first, which is the one that wins.
ACTIONS = ("deny", "reject", "queue", "allow")
#: What lets traffic pass, if through a listener: says nothing of direct traffic unless it says so.
PERMITTING = ("queue", "allow")
DEFAULT_ACTIONS = ("allow", "deny", "reject")
#: In the order of enum bw_class.
DEFAULTS: t.Dict[str, str] = {
    "ingress": "deny",
    "egress": "allow",
    "inter_container": "deny",
    "to_host": "deny",
    "from_host": "allow",
    "host_ingress": "allow",
}
#: Docker's own bridges: docker0, the swarm gateway and br-<12 hex digits>.  A pattern may have 31
#: bytes and twelve times [0-9a-f] would take 99.  [0-f] is the short class that keeps out g to z, "-"
#: and ".", and four of it fit: enough to leave br-lan, br-ex or br-management alone.
GUARDS = ("br-[0-f][0-f][0-f][0-f]????????", "docker0", "docker_gwbridge")
GUARD_BYTES = 31
MAX_GUARDS = 64
NAME_BYTES = 63

RESERVED = ("any", "containers", "host", "world")
PREFIXES = ("compose", "container", "label", "network")

_POLICY_KEYS = ("mode", "placement", "log_group", "log_defaults", "defaults", "groups", "rules", "guards")
_GROUP_KEYS = ("cidrs", "except", "labels", "names", "networks", "query")
_RULE_KEYS = ("name", "action", "from", "to", "ports", "published", "direct", "log", "queue")
_QUEUE_KEYS = ("num", "count", "bypass")

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_WITH_PORTS = ("tcp", "udp", "sctp")
ALL_SERVICES: t.Tuple[Service, ...] = ((0, 0xFFFFFF),)

_GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_DOCKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Group:
    """A name for peers: addresses (cidrs less except) or containers (all other keys, which must all hold)."""

    name: str
    cidrs: t.Tuple[str, ...] = ()
    excepts: t.Tuple[str, ...] = ()
    labels: t.Tuple[t.Tuple[str, str], ...] = ()
    names: t.Tuple[str, ...] = ()
    networks: t.Tuple[str, ...] = ()
    query: str = ""

    def as_dict(self) -> Json:
        body: Json = {
            "cidrs": list(self.cidrs),
            "except": list(self.excepts),
            "labels": dict(self.labels),
            "names": list(self.names),
            "networks": list(self.networks),
            "query": self.query,
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True)
class Queue:
    """The NFQUEUE listeners of a rule: `count` queues from `num` on."""

    num: int
    count: int = 1
    bypass: bool = False

    def as_dict(self) -> Json:
        return {"num": self.num, "count": self.count, "bypass": self.bypass}


@dataclass(frozen=True)
class Rule:
    name: str
    action: str
    sources: t.Tuple[str, ...]
    targets: t.Tuple[str, ...]
    ports: t.Tuple[str, ...] = ()
    published: t.Tuple[str, ...] = ()
    direct: bool = False
    log: bool = False
    queue: t.Optional[Queue] = None  # of the action queue, and of no other
    #: Its place in the list the operator wrote, for messages only.
    index: int = field(default=0, compare=False)

    def as_dict(self) -> Json:
        body: Json = {
            "name": self.name,
            "action": self.action,
            "from": list(self.sources),
            "to": list(self.targets),
            "ports": list(self.ports),
            "published": list(self.published),
            "direct": self.direct,
            "log": self.log,
            "queue": self.queue.as_dict() if self.queue else None,
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True)
class Policy:
    """The normal form: everything filled in, every list sorted and without repetitions."""

    mode: str
    placement: str
    log_group: int
    log_defaults: bool
    defaults: t.Tuple[t.Tuple[str, str], ...]
    groups: t.Tuple[Group, ...]
    rules: t.Tuple[Rule, ...]
    guards: t.Tuple[str, ...]

    def as_dict(self) -> Json:
        return {
            "mode": self.mode,
            "placement": self.placement,
            "log_group": self.log_group,
            "log_defaults": self.log_defaults,
            "defaults": dict(self.defaults),
            "groups": {group.name: group.as_dict() for group in self.groups},
            "rules": [rule.as_dict() for rule in self.rules],
            "guards": list(self.guards),
        }

    def group(self, name: str) -> Group:
        return {group.name: group for group in self.groups}[name]


def digest(policy: Policy) -> str:
    """SHA-256 (hex) of the normal form: equal for policies that mean the same in the same words."""
    text = json.dumps(policy.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def normalise(raw: t.Any) -> Policy:
    """The normal form of `raw`; raises PolicyError at the first thing that is wrong."""
    _mapping(raw, (), "the policy")
    _known_keys(raw, _POLICY_KEYS, (), "the policy")
    groups = _groups(raw.get("groups"))
    policy = Policy(
        mode=_choice(raw.get("mode", "enforce"), MODES, ("mode",), "the mode"),
        placement=_choice(raw.get("placement", "forward"), PLACEMENTS, ("placement",), "the placement"),
        log_group=_number(raw.get("log_group", 0), 0, 65535, ("log_group",), "the log group"),
        log_defaults=_flag(raw.get("log_defaults", False), ("log_defaults",), "log_defaults"),
        defaults=_defaults(raw.get("defaults")),
        groups=groups,
        rules=_rules(raw.get("rules"), {group.name: group for group in groups}),
        guards=_guards(raw.get("guards")),
    )
    _refuse_queue_inside(policy)
    return policy


def _refuse_queue_inside(policy: Policy) -> None:
    """A listener on the host gets no packets from hooks in the containers' namespaces."""
    for rule in policy.rules:
        if policy.placement == "container" and rule.action == "queue":
            raise PolicyError(
                f'the rule "{rule.name}" queues, which placement container cannot: '
                "the listener is in another network namespace",
                ("rules", rule.index, "action"),
                "choose placement forward or postrouting, or allow, deny or reject instead",
                rule.name,
            )


# Small things


def _mapping(value: t.Any, path: Path, what: str) -> t.Mapping[str, t.Any]:
    if not isinstance(value, t.Mapping):
        raise PolicyError(f"{what} must be a mapping, not {kind_text(value)}", path, "write key: value pairs")
    return value


def kind_text(value: t.Any) -> str:
    """What a value is, for a message."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, str):
        return f'the string "{value}"'
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return (
        "a mapping"
        if isinstance(value, t.Mapping)
        else "a list"
        if isinstance(value, (list, tuple))
        else "this"
    )


def _known_keys(value: t.Mapping[str, t.Any], known: t.Sequence[str], path: Path, what: str) -> None:
    for key in value:
        if key not in known:
            raise PolicyError(
                f'unknown key "{key}" in {what}',
                (*path, str(key)),
                "known keys are {}.{}".format(", ".join(known), did_you_mean(str(key), known)),
            )


def _strings(value: t.Any, path: Path, what: str, empty: bool = False) -> t.List[t.Tuple[str, Path]]:
    """The strings of a list, or one bare string, each with its path."""
    if value is None and empty:
        return []
    if isinstance(value, str):
        items: t.List[t.Tuple[t.Any, Path]] = [(value, path)]
    elif isinstance(value, (list, tuple)):
        items = [(item, (*path, number)) for number, item in enumerate(value)]
    else:
        raise PolicyError(f"{what} must be a list of strings, not {kind_text(value)}", path, "write [a, b]")
    if not items and not empty:
        raise PolicyError(f"{what} is empty", path, 'name at least one; "any" stands for everybody')
    for item, place in items:
        if not isinstance(item, str):
            raise PolicyError(f"{what} must hold strings, not {kind_text(item)}", place, "write it in quotes")
        if not item.strip() or item != item.strip():
            raise PolicyError(
                f'"{item}" in {what} is blank or has blanks around it', place, "remove the blanks"
            )
    return [(str(item), place) for item, place in items]


def _flag(value: t.Any, path: Path, what: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(
            f"{what} must be true or false, not {kind_text(value)}", path, "write true or false"
        )
    return value


def _number(value: t.Any, lo: int, hi: int, path: Path, what: str) -> int:
    # Jinja gives strings.
    if isinstance(value, str) and re.match(r"[0-9]{1,9}\Z", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not lo <= value <= hi:
        raise PolicyError(
            f"{what} cannot be {kind_text(value)}", path, "use a number from %d to %d" % (lo, hi)
        )
    return value


def _choice(value: t.Any, choices: t.Sequence[str], path: Path, what: str) -> str:
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise PolicyError(
            f"{what} cannot be {kind_text(value)}", path, "use one of {}.{}".format(", ".join(choices), hint)
        )
    return str(value)


def _defaults(value: t.Any) -> t.Tuple[t.Tuple[str, str], ...]:
    wanted = dict(DEFAULTS)
    if value is not None:
        _known_keys(_mapping(value, ("defaults",), "defaults"), list(DEFAULTS), ("defaults",), "defaults")
        for name, action in value.items():
            if action == "queue":
                raise PolicyError(
                    f"the default for {name} cannot be queue",
                    ("defaults", str(name)),
                    "a listener belongs to a rule: write one with the action queue",
                )
            wanted[str(name)] = _choice(
                action, DEFAULT_ACTIONS, ("defaults", str(name)), f"the default for {name}"
            )
    return tuple(wanted.items())


# Guards


def _guards(value: t.Any) -> t.Tuple[str, ...]:
    if value is None:
        return tuple(sorted(GUARDS))
    guards = _strings(value, ("guards",), "guards")
    for pattern, path in guards:
        if len(pattern.encode("utf-8")) > GUARD_BYTES:
            raise PolicyError(
                'the guard pattern "%s" is longer than %d bytes' % (pattern, GUARD_BYTES),
                path,
                "shorten it: ? stands for one character, * for any number, [a-f] for one of a class",
            )
        if (
            not pattern.isascii()
            or "/" in pattern
            or any(c.isspace() for c in pattern)
            or _CONTROL.search(pattern)
        ):
            raise PolicyError(
                f'"{pattern}" can match no network link', path, "use letters, digits and ? * [ ]"
            )
        try:
            on_loopback = glob_match(pattern, "lo")
        except re.error:
            raise PolicyError(
                f'the class in the guard pattern "{pattern}" is reversed',
                path,
                "write the lower character first",
            ) from None
        if on_loopback:
            raise PolicyError(
                f'the guard pattern "{pattern}" matches the loopback link lo',
                path,
                "name Docker's bridges only; the default is " + " ".join(GUARDS),
            )
    if len(set(guards)) > MAX_GUARDS:
        raise PolicyError("more than %d guard patterns" % MAX_GUARDS, ("guards",), "join some with * or ?")
    return tuple(sorted({pattern for pattern, _path in guards}))


def glob_match(pattern: str, name: str) -> bool:
    """glob_match() of the kernel (lib/glob.c): ? * [a-z] [!a] and backslash; case matters."""
    return re.match(_glob_regex(pattern), name, re.DOTALL) is not None


def _glob_regex(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "?":
            out += "."
        elif char == "*":
            out += ".*"
        elif char == "\\" and i < len(pattern):
            out += re.escape(pattern[i])
            i += 1
        elif char == "[":
            end = pattern.find("]", i + (2 if pattern[i : i + 1] == "!" else 1))
            if end < 0:
                out += re.escape(char)  # unclosed: the kernel takes it literally too
                continue
            body = pattern[i:end]
            negated, body = body.startswith("!"), body[1:] if body.startswith("!") else body
            out += "[{}{}]".format("^" if negated else "", re.sub(r"([\\\]\[^&~|])", r"\\\1", body))
            i = end + 1
        else:
            out += re.escape(char)
    return out + r"\Z"


def glob_escape(name: str) -> str:
    """The pattern that matches this one name."""
    return re.sub(r"([\\?*\[])", r"\\\1", name)


# Addresses


def cidr(text: str, path: Path, rule: str = "") -> Network:
    """The network `text` names; a bare address is a network of one."""
    if "%" in text:
        raise PolicyError(
            f'"{text}" has a zone', path, "write the address without %{}".format(text.split("%", 1)[1]), rule
        )
    try:
        network: Network = ipaddress.ip_network(text)
    except ValueError as error:
        raise _bad_cidr(text, path, rule, error)
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network.subnet_of(mapped):
        plain = ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        raise PolicyError(
            f'"{text}" is an IPv4 address in IPv6 clothes, which no packet carries',
            path,
            f"write {plain}",
            rule,
        )
    return network


def _bad_cidr(text: str, path: Path, rule: str, error: ValueError) -> PolicyError:
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return PolicyError(
            '"{}" is no network: {}'.format(text, str(error).replace(repr(text), "it")),
            path,
            "write an address with a prefix length, for example 10.10.10.0/24 or 2001:db8::/64",
            rule,
        )
    address = ipaddress.ip_interface(text).ip
    return PolicyError(
        f'"{text}" has bits of a host set',
        path,
        "write %s for the network or %s/%d for that one address" % (loose, address, address.max_prefixlen),
        rule,
    )


def _looks_like_address(text: str) -> bool:
    head = text.split("/", 1)[0].split("%", 1)[0]
    return bool(re.match(r"\d+\.\d+(\.\d+)*\.?\Z", head)) or bool(
        re.match(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z", head)
    )


# Groups


def _groups(value: t.Any) -> t.Tuple[Group, ...]:
    if value is None:
        return ()
    groups = []
    for name, body in _mapping(value, ("groups",), "groups").items():
        path: Path = ("groups", str(name))
        if name in RESERVED:
            raise PolicyError(
                f'a group cannot be named "{name}"',
                path,
                "it is a word of the language, like {}".format(
                    ", ".join(word for word in RESERVED if word != name)
                ),
            )
        if not isinstance(name, str) or not _GROUP_NAME.match(name) or _looks_like_address(name):
            raise PolicyError(f'a group cannot be named "{name}"', path, "use letters, digits, _ - and .")
        groups.append(_group(str(name), _mapping(body, path, f'the group "{name}"'), path))
    return tuple(sorted(groups, key=lambda group: group.name))


def _group(name: str, body: t.Mapping[str, t.Any], path: Path) -> Group:
    what = f'the group "{name}"'
    _known_keys(body, _GROUP_KEYS, path, what)
    by_address = [key for key in ("cidrs", "except") if body.get(key)]
    by_container = [key for key in ("labels", "names", "networks", "query") if body.get(key)]
    if not by_address and not by_container:
        raise PolicyError(
            f"{what} selects nothing", path, "give it cidrs, or one or more of labels, names, networks, query"
        )
    if by_address and by_container:
        raise PolicyError(
            f"{what} has both addresses ({by_address[0]}) and containers ({by_container[0]})",
            path,
            "make two groups and name both where you need them",
        )
    cidrs, excepts = _group_cidrs(body, path, what)
    return Group(
        name=name,
        cidrs=cidrs,
        excepts=excepts,
        labels=_labels(body.get("labels"), path),
        names=_sorted(_strings(body.get("names"), (*path, "names"), "names", empty=True)),
        networks=_sorted(_strings(body.get("networks"), (*path, "networks"), "networks", empty=True)),
        query=_query(body.get("query"), (*path, "query")),
    )


def same_group(one: t.Any, other: t.Any) -> bool:
    """Whether two bodies of a group are good and mean the same."""
    try:
        first, second = (_group("", _mapping(body, (), "a group"), ()) for body in (one, other))
    except PolicyError:
        return False
    return first == second


def _sorted(items: t.Iterable[t.Tuple[str, Path]]) -> t.Tuple[str, ...]:
    return tuple(sorted({item for item, _path in items}))


def _group_cidrs(
    body: t.Mapping[str, t.Any], path: Path, what: str
) -> t.Tuple[t.Tuple[str, ...], t.Tuple[str, ...]]:
    inside = [
        (cidr(text, place), place)
        for text, place in _strings(body.get("cidrs"), (*path, "cidrs"), "cidrs", empty=True)
    ]
    outside = [
        (cidr(text, place), place)
        for text, place in _strings(body.get("except"), (*path, "except"), "except", empty=True)
    ]
    if outside and not inside:
        raise PolicyError(
            f"{what} has except without cidrs", (*path, "except"), "give it cidrs to except from"
        )
    for network, place in outside:
        if not any(network.overlaps(other) for other, _p in inside if other.version == network.version):
            raise PolicyError(
                f"except {network} is outside of all cidrs of {what}",
                place,
                "remove it, or add the network it is part of to cidrs",
            )
    if outside and not subtract([n for n, _p in inside], [n for n, _p in outside]):
        raise PolicyError(f"except leaves nothing of {what}", (*path, "except"), "except less")
    return (
        tuple(sorted({str(network) for network, _p in inside})),
        tuple(sorted({str(network) for network, _p in outside})),
    )


#: Family (4 or 6), first and last address as numbers.
Interval = t.Tuple[int, int, int]


def intervals(networks: t.Iterable[Network]) -> t.List[Interval]:
    """The networks as ascending, disjoint, non-adjacent intervals."""
    spans = sorted((n.version, int(n.network_address), int(n.broadcast_address)) for n in networks)
    merged: t.List[Interval] = []
    for version, lo, hi in spans:
        if merged and merged[-1][0] == version and lo <= merged[-1][2] + 1:
            merged[-1] = (version, merged[-1][1], max(hi, merged[-1][2]))
        else:
            merged.append((version, lo, hi))
    return merged


def subtract(networks: t.Iterable[Network], without: t.Iterable[Network]) -> t.List[Interval]:
    """What is in `networks` and not in `without`."""
    left = intervals(networks)
    for version, lo, hi in intervals(without):
        kept: t.List[Interval] = []
        for family, first, last in left:
            if family != version or hi < first or lo > last:
                kept.append((family, first, last))
                continue
            if first < lo:
                kept.append((family, first, lo - 1))
            if hi < last:
                kept.append((family, hi + 1, last))
        left = kept
    return left


def _labels(value: t.Any, path: Path) -> t.Tuple[t.Tuple[str, str], ...]:
    if value is None:
        return ()
    labels = []
    path = (*path, "labels")
    for key, wanted in _mapping(value, path, "labels").items():
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            wanted = str(wanted)
        if not isinstance(wanted, str):
            # YAML turns yes, 1.10 and ~ into something that is not what Docker has.
            raise PolicyError(
                f"the label {key} cannot be {kind_text(wanted)}",
                (*path, str(key)),
                'write the value in quotes; "*" stands for any value',
            )
        labels.append((str(key), str(wanted)))
    return tuple(sorted(labels))


def _query(value: t.Any, path: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise PolicyError(
            f"a query must be a JMESPath expression, not {kind_text(value)}", path, "write it in quotes"
        )
    try:
        import jmespath
    except ImportError:
        return str(value)  # the target has it and looks again
    try:
        jmespath.compile(value)
    except Exception as error:  # jmespath has several kinds without a common base but ValueError
        text = " ".join(str(error).split())
        raise PolicyError(f"the query is no JMESPath: {text}", path, "mend it, see https://jmespath.org")
    return str(value)


# Services


def services(ports: t.Iterable[str]) -> t.Tuple[Service, ...]:
    """The service numbers of port texts in normal form, ascending and merged; all without any."""
    spans = sorted(_service(port, ()) for port in ports)
    if not spans:
        return ALL_SERVICES
    merged = [spans[0]]
    for lo, hi in spans[1:]:
        if lo <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return tuple(merged)


def service_number(text: str) -> int:
    """The one service `text` names, or the first of a range; raises PolicyError."""
    return _service(text, ())[0]


def _service(text: str, path: Path, rule: str = "") -> Service:
    """ "8080/tcp", "8000-8100/udp", "tcp", "icmp", "icmp:8", "icmp:3/4", "icmpv6:128", "proto:47"."""
    head, colon, tail = text.partition(":")
    if head in ("icmp", "icmpv6"):
        return _icmp_service(text, head, tail if colon else None, path, rule)
    if head == "proto" and colon:
        number = _bounded(tail, 0, 255, "IP protocol", text, path, rule)
        return number << 16, number << 16 | 0xFFFF
    if text in _WITH_PORTS:
        return _PROTOCOLS[text] << 16, _PROTOCOLS[text] << 16 | 0xFFFF
    lo, hi, protocol = _port_range(text, path, rule)
    return _PROTOCOLS[protocol] << 16 | lo, _PROTOCOLS[protocol] << 16 | hi


def _icmp_service(text: str, protocol: str, tail: t.Optional[str], path: Path, rule: str) -> Service:
    base = _PROTOCOLS[protocol] << 16
    if tail is None:
        return base, base | 0xFFFF
    kind, slash, code = tail.partition("/")
    number = base | _bounded(kind, 0, 255, "ICMP type", text, path, rule) << 8
    if not slash:
        return number, number | 0xFF
    number |= _bounded(code, 0, 255, "ICMP code", text, path, rule)
    return number, number


def _port_range(text: str, path: Path, rule: str) -> t.Tuple[int, int, str]:
    ports, slash, protocol = text.partition("/")
    if not slash:
        if re.match(r"\d+(-\d+)?\Z", text):
            raise PolicyError(
                f'the port "{text}" has no protocol', path, f"write {text}/tcp or {text}/udp", rule
            )
        raise PolicyError(
            f'"{text}" is no service',
            path,
            "write a port as 8080/tcp, a range as 8000-8100/tcp, or tcp, udp, sctp, icmp, icmp:8, icmpv6:128, proto:47."
            + did_you_mean(text, list(_PROTOCOLS)),
            rule,
        )
    if protocol not in _WITH_PORTS:
        raise PolicyError(
            f'"{text}" has no ports in the protocol "{protocol}"',
            path,
            "use {}.{}".format(", ".join(_WITH_PORTS), did_you_mean(protocol, _WITH_PORTS)),
            rule,
        )
    first, dash, last = ports.partition("-")
    lo = _bounded(first, 1, 65535, "port", text, path, rule)
    hi = _bounded(last, 1, 65535, "port", text, path, rule) if dash else lo
    if hi < lo:
        raise PolicyError(
            f'the range "{text}" is reversed', path, "write %d-%d/%s" % (hi, lo, protocol), rule
        )
    return lo, hi, protocol


def _bounded(text: str, lo: int, hi: int, what: str, whole: str, path: Path, rule: str) -> int:
    if not re.match(r"[0-9]{1,9}\Z", text) or not lo <= int(text) <= hi:
        raise PolicyError(
            f'"{text}" in "{whole}" is no {what}', path, "%ss go from %d to %d" % (what, lo, hi), rule
        )
    return int(text)


def service_text(service: Service) -> str:
    """The normal text of a service, the shortest there is."""
    lo, hi = service
    protocol, first, last = lo >> 16, lo & 0xFFFF, hi & 0xFFFF
    name = _PROTOCOL_NAMES.get(protocol)
    if name is None:
        return "proto:%d" % protocol
    if (first, last) == (0, 0xFFFF):
        return name
    if name in _WITH_PORTS:
        return "%d/%s" % (first, name) if first == last else "%d-%d/%s" % (first, last, name)
    if first & 0xFF == 0 and last & 0xFF == 0xFF:
        return "%s:%d" % (name, first >> 8)
    return "%s:%d/%d" % (name, first >> 8, first & 0xFF)


def _ports(value: t.Any, path: Path, rule: str) -> t.Tuple[str, ...]:
    found = set()
    for text, place in _port_texts(value, path, "ports", rule):
        found.add(service_text(_service(text, place, rule)))
    return tuple(sorted(found))


def _published(value: t.Any, path: Path, rule: str) -> t.Tuple[str, ...]:
    found = set()
    for text, place in _port_texts(value, path, "published", rule):
        lo, hi, protocol = _port_range(text, place, rule)
        found.add("%d/%s" % (lo, protocol) if lo == hi else "%d-%d/%s" % (lo, hi, protocol))
    return tuple(sorted(found))


def _port_texts(value: t.Any, path: Path, what: str, rule: str) -> t.List[t.Tuple[str, Path]]:
    numbers = list(enumerate(value)) if isinstance(value, (list, tuple)) else [(-1, value)]
    for number, item in numbers:
        if isinstance(item, int) and not isinstance(item, bool):
            place = path if number < 0 else (*path, number)
            raise PolicyError(
                "the port %d has no protocol" % item, place, "write %d/tcp or %d/udp" % (item, item), rule
            )
    texts = _strings(value, path, what, empty=True)
    if value is not None and not texts:
        raise PolicyError(f"{what} is empty", path, "leave it out for all services", rule)
    return texts


# Rules


def _rules(value: t.Any, groups: t.Mapping[str, Group]) -> t.Tuple[Rule, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise PolicyError(
            f"rules must be a list, not {kind_text(value)}", ("rules",), "write a list of rules"
        )
    rules: t.Dict[str, Rule] = {}
    for index, body in enumerate(value):
        rule = _rule(body, index, groups)
        former = rules.setdefault(rule.name, rule)
        # The same rule twice is what joining lists of several groups gives.
        if former != rule:
            raise PolicyError(
                "two different rules have this name",
                ("rules", index, "name"),
                "rename one; the other is rules[%d]" % former.index,
                rule.name,
            )
    ordered = tuple(sorted(rules.values(), key=lambda rule: rule.name))
    _contradictions(ordered)
    return ordered


def _rule(body: t.Any, index: int, groups: t.Mapping[str, Group]) -> Rule:
    path: Path = ("rules", index)
    name = _rule_name(_mapping(body, path, "a rule"), path)
    try:
        _known_keys(body, _RULE_KEYS, path, "the rule")
        action = _choice(body.get("action", "allow"), ACTIONS, (*path, "action"), "the action")
        rule = Rule(
            name=name,
            action=action,
            sources=_peers(body, "from", path, groups),
            targets=_peers(body, "to", path, groups),
            ports=_ports(body.get("ports"), (*path, "ports"), name),
            published=_published(body.get("published"), (*path, "published"), name),
            direct=_flag(body.get("direct", False), (*path, "direct"), "direct"),
            log=_flag(body.get("log", False), (*path, "log"), "log"),
            queue=_queue(body, action, path),
            index=index,
        )
        _sense(rule, path, groups)
    except PolicyError as error:
        if error.rule:
            raise
        raise PolicyError(error.thing, error.path, error.mend, name)
    return rule


def rules_differ(one: t.Any, other: t.Any, groups: t.Mapping[str, t.Any]) -> bool:
    """Whether two rules are good and mean something different. What is wrong with one, normalise() reports."""
    if one == other:
        return False
    try:
        known = {group.name: group for group in _groups(groups)}
        return _rule(one, 0, known) != _rule(other, 0, known)
    except PolicyError:
        return False


def _queue(body: t.Mapping[str, t.Any], action: str, path: Path) -> t.Optional[Queue]:
    value = body.get("queue")
    if action != "queue":
        if value is not None:
            raise PolicyError(
                f"queue is given, but the action is {action}",
                (*path, "queue"),
                "write action: queue, or remove it",
            )
        return None
    if value is None:
        raise PolicyError(
            "the action is queue, but no queue is named",
            path,
            "write queue: {num: 0, count: 1, bypass: false}",
        )
    path = (*path, "queue")
    _known_keys(_mapping(value, path, "queue"), _QUEUE_KEYS, path, "queue")
    if "num" not in value:
        raise PolicyError("the queue has no num", path, "name the queue its listener binds, 0 to 65535")
    num = _number(value["num"], 0, 65535, (*path, "num"), "the queue's num")
    return Queue(
        num=num,
        count=_number(value.get("count", 1), 1, 65536 - num, (*path, "count"), "the queue's count"),
        bypass=_flag(value.get("bypass", False), (*path, "bypass"), "the queue's bypass"),
    )


def _rule_name(body: t.Mapping[str, t.Any], path: Path) -> str:
    if "name" not in body:
        raise PolicyError("a rule has no name", path, "give it one: counters, logs and messages show it")
    name = body["name"]
    path = (*path, "name")
    if not isinstance(name, str) or not name.strip():
        raise PolicyError(f"a rule's name must be a text, not {kind_text(name)}", path, "write some words")
    if name != name.strip() or _CONTROL.search(name):
        raise PolicyError(
            f'the name "{name}" has blanks around it or control characters', path, "remove them"
        )
    size = len(name.encode("utf-8"))
    if size > NAME_BYTES:
        raise PolicyError(
            'the name "%s" takes %d bytes' % (name, size), path, "shorten it to %d bytes" % NAME_BYTES
        )
    return str(name)


def _peers(
    body: t.Mapping[str, t.Any], key: str, path: Path, groups: t.Mapping[str, Group]
) -> t.Tuple[str, ...]:
    path = (*path, key)
    if key not in body:
        raise PolicyError(f'"{key}" is missing', path[:-1], f"{key}: [any] stands for everybody")
    return tuple(
        sorted({_peer(text, place, groups) for text, place in _strings(body[key], path, f'"{key}"')})
    )


def _peer(text: str, path: Path, groups: t.Mapping[str, Group]) -> str:
    """A selector in normal form."""
    if text in RESERVED or text in groups:
        return text
    head, colon, tail = text.partition(":")
    if colon and head in PREFIXES:
        return _prefixed(head, tail, text, path)
    if _looks_like_address(text):
        return str(cidr(text, path))
    if colon:
        raise PolicyError(
            f'"{text}" is no selector',
            path,
            "known are {}.{}".format(
                ", ".join(prefix + ":" for prefix in PREFIXES), did_you_mean(head, PREFIXES)
            ),
        )
    known = sorted(groups) + list(RESERVED)
    raise PolicyError(
        f'there is no group "{text}"',
        path,
        "known are {}.{}".format(", ".join(known), did_you_mean(text, known))
        + (f" A container is named container:{text}." if _DOCKER_NAME.match(text) else ""),
    )


def _prefixed(head: str, tail: str, text: str, path: Path) -> str:
    if head == "label":
        key, equals, _value = tail.partition("=")
        if not key or not equals:
            raise PolicyError(
                f'"{text}" is no label', path, "write label:KEY=VALUE; the value * stands for any"
            )
    elif head == "compose":
        project, slash, service = tail.partition("/")
        if not project or not slash or not service or "/" in service:
            raise PolicyError(f'"{text}" is no compose service', path, "write compose:PROJECT/SERVICE")
    elif head == "container" and not _DOCKER_NAME.match(tail):
        raise PolicyError(
            f'"{tail}" can be no container\'s name',
            path,
            "write container:NAME as docker ps shows it; for a pattern make a group with names",
        )
    elif not tail:
        raise PolicyError(
            f'"{text}" names no network', path, "write network:NAME as docker network ls shows it"
        )
    return text


#: Which of the three kinds of holders judged traffic goes between (initiator, responder).
JUDGED = frozenset(
    {
        ("world", "endpoint"),
        ("endpoint", "world"),
        ("endpoint", "endpoint"),
        ("endpoint", "host"),
        ("host", "endpoint"),
        ("world", "host"),
    }
)


def _holders(peers: t.Iterable[str], groups: t.Mapping[str, Group]) -> t.Set[str]:
    holders: t.Set[str] = set()
    for peer in peers:
        if peer in ("world", "host"):
            holders.add(peer)
        elif peer == "any" or _looks_like_address(peer) or (peer in groups and groups[peer].cidrs):
            return {"world", "host", "endpoint"}
        else:
            holders.add("endpoint")
    return holders


def _sense(rule: Rule, path: Path, groups: t.Mapping[str, Group]) -> None:
    """Combinations that can never do what they seem to say."""
    sources, targets = _holders(rule.sources, groups), _holders(rule.targets, groups)
    if rule.ports and rule.published:
        raise PolicyError(
            "both ports and published are given",
            (*path, "published"),
            "ports are the container's, published the host's: keep one, or make two rules",
        )
    if not any((source, target) in JUDGED for source in sources for target in targets):
        raise PolicyError(
            "traffic from {} to {} passes no guarded link".format(
                ", ".join(rule.sources), ", ".join(rule.targets)
            ),
            path,
            "the rule can never match: remove it, or name containers on one side",
        )
    if rule.published and "endpoint" not in targets:
        raise PolicyError(
            "published needs containers to look the port up at", (*path, "to"), "name containers in to"
        )
    if rule.direct and rule.action not in PERMITTING:
        raise PolicyError(
            "direct says nothing in a rule that does not allow",
            (*path, "direct"),
            f"remove it: {rule.action} holds for direct traffic anyway",
        )
    if rule.direct and rule.published:
        raise PolicyError(
            "direct traffic does not come through a published port",
            (*path, "direct"),
            "use ports with direct, or make two rules",
        )
    if rule.direct and ("world" not in sources or "endpoint" not in targets):
        raise PolicyError(
            "direct is about traffic from outside to containers",
            (*path, "direct"),
            "remove it from this rule",
        )


def _contradictions(rules: t.Sequence[Rule]) -> None:
    same: t.Dict[t.Tuple[t.Any, ...], Rule] = {}
    for rule in rules:
        key = (rule.sources, rule.targets, services(rule.ports), rule.published)
        former = same.setdefault(key, rule)
        if former.action == rule.action and former.queue != rule.queue:
            raise PolicyError(
                'it sends the very same traffic to another queue than the rule "{}" ({})'.format(
                    former.name, path_text(("rules", former.index))
                ),
                ("rules", rule.index, "queue"),
                "a packet goes to one queue: remove one of the two",
                rule.name,
            )
        if former.action != rule.action:
            winner, loser = sorted((former, rule), key=lambda r: ACTIONS.index(r.action))
            raise PolicyError(
                'it says {} where the rule "{}" ({}) says {} for the very same traffic'.format(
                    loser.action, winner.name, path_text(("rules", winner.index)), winner.action
                ),
                ("rules", loser.index, "action") if loser.action != "allow" else ("rules", loser.index),
                f"{winner.action} would always win: remove one of the two",
                loser.name,
            )
