# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of a raw policy, and what a rule may not ask for.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import datetime
import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Path,
    PolicyError,
    did_you_mean,
    path_text,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import (
    cidr,
    looks_like_address,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.fields import (
    CONTROL,
    choice,
    flag,
    kind_text,
    known_keys,
    mapping,
    strings,
    whole_number,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.groups import parse_groups
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    ACTIONS,
    NAME_BYTES,
    NETWORK,
    PERMITTING,
    PREFIXES,
    RESERVED,
    Group,
    Lifeline,
    Queue,
    Rule,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import check_pattern
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import (
    parse_port_range,
    parse_service,
    service_text,
    services,
)

RULE_KEYS = (
    "name",
    "action",
    "from",
    "to",
    "ports",
    "published",
    "direct",
    "log",
    "queue",
    "within",
    "until",
    "note",
)
LIFELINE_KEYS = ("name", "from", "to", "ports")
NOTE_BYTES = 1000
QUEUE_KEYS = ("num", "count", "bypass")
#: Of a container, project or service, or a pattern of such names.
_DOCKER_NAME = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9_.*?\[\]!-]*\Z")
#: db.example.com, *.example.com; the last part tells it from 1.2.3.
_HOST_NAME = re.compile(r"(\*\.)?([A-Za-z0-9-]+\.)+[A-Za-z]{2,}\Z")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z")


def _ports(value: t.Any, path: Path, rule: str) -> t.Tuple[str, ...]:
    found = set()
    for text, place in _port_texts(value, path, "ports", rule):
        found.add(service_text(parse_service(text, place, rule)))
    return tuple(sorted(found))


def _published(value: t.Any, path: Path, rule: str) -> t.Tuple[str, ...]:
    found = set()
    for text, place in _port_texts(value, path, "published", rule):
        lo, hi, protocol = parse_port_range(text, place, rule)
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
    texts = strings(value, path, what, empty=True)
    if value is not None and not texts:
        raise PolicyError(f"{what} is empty", path, "leave it out for all services", rule)
    return texts


# Rules


def parse_rules(value: t.Any, groups: t.Mapping[str, Group]) -> t.Tuple[Rule, ...]:
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
    name = _rule_name(mapping(body, path, "a rule"), path)
    try:
        known_keys(body, RULE_KEYS, path, "the rule")
        action = choice(body.get("action", "allow"), ACTIONS, (*path, "action"), "the action")
        rule = Rule(
            name=name,
            action=action,
            sources=_parse_peers(body, "from", path, groups),
            targets=_parse_peers(body, "to", path, groups),
            ports=_ports(body.get("ports"), (*path, "ports"), name),
            published=_published(body.get("published"), (*path, "published"), name),
            direct=flag(body.get("direct", False), (*path, "direct"), "direct"),
            log=flag(body.get("log", False), (*path, "log"), "log"),
            queue=_parse_queue(body, action, path),
            within=_within(body.get("within"), (*path, "within")),
            until=_until(body.get("until"), (*path, "until")),
            note=_note(body.get("note"), (*path, "note")),
            index=index,
        )
        _sense(rule, path, groups)
    except PolicyError as error:
        if error.rule:
            raise
        raise PolicyError(error.problem, error.path, error.hint, name)
    return rule


def rules_differ(one: t.Any, other: t.Any, groups: t.Mapping[str, t.Any]) -> bool:
    """Whether two rules are good and mean something different. What is wrong with one, normalise() reports."""
    if one == other:
        return False
    try:
        known = {group.name: group for group in parse_groups(groups)}
        return _rule(one, 0, known) != _rule(other, 0, known)
    except PolicyError:
        return False


def _parse_queue(body: t.Mapping[str, t.Any], action: str, path: Path) -> t.Optional[Queue]:
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
    known_keys(mapping(value, path, "queue"), QUEUE_KEYS, path, "queue")
    if "num" not in value:
        raise PolicyError("the queue has no num", path, "name the queue its listener binds, 0 to 65535")
    num = whole_number(value["num"], 0, 65535, (*path, "num"), "the queue's num")
    return Queue(
        num=num,
        count=whole_number(value.get("count", 1), 1, 65536 - num, (*path, "count"), "the queue's count"),
        bypass=flag(value.get("bypass", False), (*path, "bypass"), "the queue's bypass"),
    )


def _within(value: t.Any, path: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value:
        raise PolicyError(
            f"within cannot be {kind_text(value)}",
            path,
            f"name a label, for example com.docker.compose.project, or write {NETWORK}",
        )
    key = value[len("label:") :] if value.startswith("label:") else value
    if "=" in key or value != key:
        raise PolicyError(
            f'within is a label\'s name alone, not "{value}"',
            path,
            f"write within: {key.partition('=')[0] or 'com.docker.compose.project'}",
        )
    if any(char.isspace() for char in key) or CONTROL.search(key):
        raise PolicyError(f'"{value}" can be no label\'s name', path, "remove the blanks")
    return key


def _until(value: t.Any, path: Path) -> str:
    """The last day. YAML makes a date of an unquoted one."""
    if value is None:
        return ""
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    hint = "write a day as YYYY-MM-DD; it is the last one, in UTC"
    if not isinstance(value, str) or not _DAY.match(value):
        what = "a time" if isinstance(value, datetime.datetime) else kind_text(value)
        raise PolicyError(f"until cannot be {what}", path, hint)
    try:
        return datetime.date(*(int(part) for part in value.split("-"))).isoformat()
    except ValueError as error:
        raise PolicyError(f'there is no day "{value}": {error}', path, hint) from None


def _note(value: t.Any, path: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise PolicyError(f"a note must be a text, not {kind_text(value)}", path, "write it in quotes")
    if value != value.strip() or CONTROL.search(value):
        raise PolicyError("the note has blanks around it or control characters", path, "write one line")
    if len(value.encode("utf-8")) > NOTE_BYTES:
        raise PolicyError("the note takes more than %d bytes" % NOTE_BYTES, path, "shorten it")
    return str(value)


def parse_lifelines(value: t.Any, groups: t.Mapping[str, Group]) -> t.Tuple[Lifeline, ...]:
    """Connections that must stay open, sorted by name."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise PolicyError(
            f"lifelines must be a list, not {kind_text(value)}",
            ("lifelines",),
            "write a list of {name, from, to, ports}",
        )
    found: t.Dict[str, Lifeline] = {}
    for index, body in enumerate(value):
        lifeline = _lifeline(mapping(body, ("lifelines", index), "a lifeline"), index, groups)
        if found.setdefault(lifeline.name, lifeline) != lifeline:
            raise PolicyError(
                f'two different lifelines are named "{lifeline.name}"',
                ("lifelines", index, "name"),
                "rename one; the other is lifelines[%d]" % found[lifeline.name].index,
            )
    return tuple(sorted(found.values(), key=lambda lifeline: lifeline.name))


def _lifeline(body: t.Mapping[str, t.Any], index: int, groups: t.Mapping[str, Group]) -> Lifeline:
    path: Path = ("lifelines", index)
    known_keys(body, LIFELINE_KEYS, path, "the lifeline")
    if "name" not in body:
        raise PolicyError("a lifeline has no name", path, "give it one: messages show it")
    name = _rule_name(body, path)
    ports = _ports(body.get("ports"), (*path, "ports"), "")
    if not ports:
        raise PolicyError(
            "a lifeline has no ports", path, "name what it connects to, for example ports: [22/tcp]"
        )
    return Lifeline(
        name=name,
        sources=_parse_peers(body, "from", path, groups) if "from" in body else (),
        targets=_parse_peers(body, "to", path, groups) if "to" in body else ("host",),
        ports=ports,
        index=index,
    )


def _rule_name(body: t.Mapping[str, t.Any], path: Path) -> str:
    if "name" not in body:
        raise PolicyError("a rule has no name", path, "give it one: counters, logs and messages show it")
    name = body["name"]
    path = (*path, "name")
    if not isinstance(name, str) or not name.strip():
        raise PolicyError(f"a rule's name must be a text, not {kind_text(name)}", path, "write some words")
    if name != name.strip() or CONTROL.search(name):
        raise PolicyError(
            f'the name "{name}" has blanks around it or control characters', path, "remove them"
        )
    size = len(name.encode("utf-8"))
    if size > NAME_BYTES:
        raise PolicyError(
            'the name "%s" takes %d bytes' % (name, size), path, "shorten it to %d bytes" % NAME_BYTES
        )
    return str(name)


def _parse_peers(
    body: t.Mapping[str, t.Any], key: str, path: Path, groups: t.Mapping[str, Group]
) -> t.Tuple[str, ...]:
    path = (*path, key)
    if key not in body:
        raise PolicyError(f'"{key}" is missing', path[:-1], f"{key}: [any] stands for everybody")
    return tuple(sorted({_peer(text, place, groups) for text, place in strings(body[key], path, f'"{key}"')}))


def container_selector(text: str, path: Path) -> bool:
    """Whether it is container:, network:, label: or compose:, which is checked then."""
    head, colon, tail = text.partition(":")
    if not colon or head not in PREFIXES:
        return False
    _prefixed(head, tail, text, path)
    return True


def _peer(text: str, path: Path, groups: t.Mapping[str, Group]) -> str:
    """A selector in normal form."""
    if text in RESERVED or text in groups:
        return text
    head, colon, tail = text.partition(":")
    if colon and head in PREFIXES:
        return _prefixed(head, tail, text, path)
    if looks_like_address(text):
        return str(cidr(text, path))
    if colon:
        raise PolicyError(
            f'"{text}" is no selector',
            path,
            "known are {}.{}".format(
                ", ".join(prefix + ":" for prefix in PREFIXES), did_you_mean(head, PREFIXES)
            ),
        )
    if _HOST_NAME.match(text):
        raise PolicyError(
            f'"{text}" is no group, and names of hosts are no selectors',
            path,
            "a name's addresses change, and packets carry addresses only: write the addresses or networks, best as a group "
            f"with cidrs; a container of that name is container:{text}",
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
        for part in (project, service):
            check_pattern(part, path)
    elif head == "container" and not _DOCKER_NAME.match(tail):
        raise PolicyError(
            f'"{tail}" can be no container\'s name',
            path,
            "write container:NAME as docker ps shows it; * ? and [a-z] make a pattern of it",
        )
    elif not tail:
        raise PolicyError(
            f'"{text}" names no network', path, "write network:NAME as docker network ls shows it"
        )
    else:
        check_pattern(tail, path)
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
        elif (
            peer == "any"
            or looks_like_address(peer)
            or (peer in groups and groups[peer].cidrs and not groups[peer].behind)
        ):
            return {"world", "host", "endpoint"}
        else:
            holders.add("endpoint")
    return holders


def _by_container(peer: str, groups: t.Mapping[str, Group]) -> bool:
    """Whether a selector names containers and nothing else."""
    if peer in groups:
        return not groups[peer].cidrs
    head, colon, _tail = peer.partition(":")
    return peer == "containers" or (bool(colon) and head in PREFIXES)


def _sense_within(rule: Rule, path: Path, groups: t.Mapping[str, Group]) -> None:
    if not rule.within:
        return
    for key, peers in (("from", rule.sources), ("to", rule.targets)):
        for peer in peers:
            if not _by_container(peer, groups):
                raise PolicyError(
                    f'within compares containers, and "{peer}" in {key} is none',
                    (*path, "within"),
                    "name containers on both sides, or make two rules",
                )


def _sense(rule: Rule, path: Path, groups: t.Mapping[str, Group]) -> None:
    """Combinations that can never do what they seem to say."""
    sources, targets = _holders(rule.sources, groups), _holders(rule.targets, groups)
    _sense_within(rule, path, groups)
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
    routed = [peer for peer in rule.targets if peer in groups and groups[peer].behind]
    if rule.published and routed:
        raise PolicyError(
            f'nothing is published for "{routed[0]}", whose addresses are behind containers',
            (*path, "to"),
            "give ports and direct: true to let others reach these addresses, or name the containers themselves",
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
        # A rule that ends on another day is an exception for that time.
        key = (rule.sources, rule.targets, services(rule.ports), rule.published, rule.within, rule.until)
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
