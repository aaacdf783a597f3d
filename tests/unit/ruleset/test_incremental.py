# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compiled step by step equals what is compiled from scratch, and costs what has changed."""

from __future__ import annotations

import copy
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import strategies
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset import compile as compile_room
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.incremental import Compiler
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import resolve
from hypothesis import given
from hypothesis import strategies as st
from test_against_naive import SETTINGS, accepted

from tests.unit.make import attached, attachment, container, facts, network, published

Json = t.Dict[str, t.Any]


def from_scratch(policy: t.Any, now: Json) -> Ruleset:
    return compile_ruleset(policy, resolve(policy, now, "ignore"), now)


def kept(before: Json, after: Json) -> Json:
    """`after` with the very objects of `before` where they are equal, as the agent's facts have it."""
    former = {one["Id"]: one for one in before["containers"]}
    containers = [former[one["Id"]] if former.get(one["Id"]) == one else one for one in after["containers"]]
    return {**after, "containers": containers}


@st.composite
def changed(draw: st.DrawFn, now: Json) -> Json:
    """The host after one or two things have happened to its containers."""
    other = draw(strategies.hosts())
    containers = {one["Id"]: one for one in now["containers"]}
    for one in other["containers"][: draw(st.integers(1, 2))]:
        if draw(st.booleans()):
            containers[one["Id"]] = one
        else:
            containers.pop(one["Id"], None)
    if containers and draw(st.integers(0, 9)) == 0:
        one = copy.deepcopy(draw(st.sampled_from(sorted(containers.values(), key=lambda c: str(c["Id"])))))
        one.update(NetworkMode="container:" + "0" * 64, Networks={})
        containers[one["Id"]] = one
    return {**now, "containers": list(containers.values())}


@SETTINGS
@given(policy=strategies.policies(), first=strategies.hosts(), data=st.data())
def test_step_by_step_equals_from_scratch(policy: Json, first: Json, data: st.DataObject) -> None:
    wanted = accepted(policy)
    compiler = Compiler()
    now = first
    for _step in range(6):
        found = compiler.compile(wanted, now)
        expected = from_scratch(wanted, now)
        assert found == expected and found.digest() == expected.digest()
        assert found.to_sections() == expected.to_sections()
        now = kept(now, data.draw(changed(now)))


POLICY = normalise(
    {
        "mode": "enforce",
        "groups": {"web": {"labels": {"tier": "web"}}, "asked": {"query": "[?Labels.tier=='db']"}},
        "rules": [
            {"name": "db", "from": ["web"], "to": ["asked"], "ports": ["5432/tcp"]},
            {"name": "in", "from": ["world"], "to": ["web"], "ports": ["80/tcp"]},
        ],
    }
)


def one(number: int, tier: str, **more: t.Any) -> Json:
    place = attached(f"172.18.0.{number}", LinkIndex=5, PortIndex=100 + number)
    return container(f"c{number:02}", {"front": place}, Labels={"tier": tier}, **more)


def shop(*containers: Json, **more: t.Any) -> Json:
    return {**NOTHING, "containers": list(containers), **more}


NOTHING = facts([], [network("front")])
WEB, DB = one(2, "web"), one(3, "db")


@pytest.mark.parametrize(
    "after",
    [
        shop(WEB, DB, one(4, "web")),
        shop(WEB, DB, one(4, "other")),  # whom no rule names, as nobody before it
        shop(WEB, DB, attachments=[attachment("build", "b", {"front": attached("172.18.0.9", PortIndex=7)})]),
        shop(one(2, "web", State="paused"), DB),
        shop(WEB, one(3, "db", Networks={"front": attached("172.18.0.3", PortIndex=77)})),
        shop(WEB, DB, one(4, "web", Ports=[published(8080, 80)])),
        shop(WEB, {**DB, "Networks": {}}, one(4, "db")),
    ],
)
def test_what_takes_no_compilation_from_scratch(after: Json) -> None:
    compiler = Compiler()
    compiler.compile(POLICY, shop(WEB, DB))
    assert compiler.compile(POLICY, after) == from_scratch(POLICY, after)
    assert compiler.from_scratch == 1
    back = shop(WEB, DB)
    assert compiler.compile(POLICY, back) == from_scratch(POLICY, back)
    assert compiler.from_scratch == 1


@pytest.mark.parametrize(
    "after",
    [
        shop(WEB),  # a rule has nobody on one side now
        shop(WEB, DB, networks=[]),
        shop(WEB, DB, one(4, "web", NetworkMode="container:id-c02", Networks={})),
        shop(WEB, DB, container("twin", {"front": attached("172.18.0.3")})),
    ],
)
def test_what_does(after: Json) -> None:
    compiler = Compiler()
    compiler.compile(POLICY, shop(WEB, DB))
    assert compiler.compile(POLICY, after) == from_scratch(POLICY, after)
    assert compiler.from_scratch == 2


def test_what_changes_nothing_gives_the_same_object() -> None:
    compiler = Compiler()
    first = compiler.compile(POLICY, shop(WEB, DB))
    assert compiler.compile(POLICY, shop(one(2, "web", Pid=7), DB)) is first
    assert compiler.compile(POLICY, shop(WEB, DB, container("cold", {}, State="created"))) is first


def test_a_failure_leaves_the_former_ruleset_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler()
    compiler.compile(POLICY, shop(WEB, DB))
    with monkeypatch.context() as small:
        small.setattr(compile_room, "MAX_ENDPOINTS", 2)
        with pytest.raises(Exception, match="endpoints"):
            compiler.compile(POLICY, shop(WEB, DB, one(4, "web")))
    after = shop(WEB, DB, one(5, "web"))
    assert compiler.compile(POLICY, after) == from_scratch(POLICY, after)


def test_a_range_of_ports_is_not_compiled_again_when_others_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A telephone exchange publishes 16,384 ports; each counts twice, for IPv4 and IPv6."""
    ports = [published(port, port, "udp") for port in range(16384, 32768)]
    exchange = one(2, "web", Ports=ports)
    compiled: t.List[str] = []
    sockets_of = compile_room._sockets_of
    monkeypatch.setattr(
        compile_room,
        "_sockets_of",
        lambda host, its, endpoints: compiled.append(its["Name"]) or sockets_of(host, its, endpoints),
    )
    compiler = Compiler()
    first = compiler.compile(POLICY, shop(exchange, DB))
    first.to_sections()
    assert compiled == ["c02"] and len(first.publish) == 16384
    second = compiler.compile(POLICY, shop(exchange, DB, one(4, "web")))
    assert second.publish is first.publish
    packed = [dict(found.to_sections()) for found in (first, second)]
    assert packed[0][compile_room.Attr.SECTION_PUBLISH] is packed[1][compile_room.Attr.SECTION_PUBLISH]
    third = compiler.compile(POLICY, shop(exchange, DB, one(4, "web", Ports=[published(80, 80)])))
    assert compiled == ["c02", "c04"] and len(third.publish) == 16385
    compiler.compile(POLICY, shop(exchange, DB, networks=[]))  # from scratch
    assert compiled == ["c02", "c04"]
