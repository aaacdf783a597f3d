# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers and structs of _netlink.py are those of kmod/uapi/bridgewarden.h."""

from __future__ import annotations

import enum
import re
import struct
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils import _netlink as netlink

SIZES = {"__u8": 1, "char": 1, "__u16": 2, "__u32": 4, "__be32": 4, "__u64": 8}


@pytest.fixture(scope="module")
def header(checkout: Path) -> str:
    text = (checkout / "kmod/uapi/bridgewarden.h").read_text(encoding="utf-8")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def defines(header: str) -> t.Dict[str, int]:
    found = {}
    for name, value in re.findall(r"#define\s+BW_(\w+)\s+([^\n]+)", header):
        value = re.sub(r"(?<=\d)U\b|(?<=[fF])U\b", "", value.strip())
        if re.fullmatch(r"[\d\sxa-fA-F<()]+", value):
            found[name] = eval(value)
    return found


def constants(header: str, name: str) -> t.Dict[str, int]:
    body = re.search(r"enum %s \{(.*?)\}" % name, header, re.DOTALL)
    assert body, name
    found, number = {}, -1
    for item in body.group(1).split(","):
        if not item.strip():
            continue
        key, _equals, value = (part.strip() for part in item.partition("="))
        number = int(value, 0) if value else number + 1
        found[key] = number
    return found


@pytest.mark.parametrize(
    ("name", "prefix", "ours"),
    [
        ("bw_cmd", "BW_CMD_", netlink.Cmd),
        ("bw_attr", "BW_ATTR_", netlink.Attr),
        ("bw_id", "BW_ID_", netlink.Identity),
        ("bw_mode", "BW_MODE_", netlink.Mode),
        ("bw_action", "BW_ACTION_", netlink.Action),
        ("bw_class", "BW_CLASS_", netlink.DirectionClass),
        ("bw_reason", "BW_REASON_", netlink.Reason),
        ("bw_kind", "BW_KIND_", netlink.Kind),
    ],
)
def test_enum(header: str, name: str, prefix: str, ours: t.Type[enum.IntEnum]) -> None:
    theirs = {
        key[len(prefix) :]: value
        for key, value in constants(header, name).items()
        if not key.startswith("__") and key not in ("BW_CMD_UNSPEC", "BW_REASON_MAX")
    }
    assert {member.name: int(member) for member in ours} == theirs


def test_every_reason_has_words() -> None:
    assert set(netlink.REASON_WORDS) == set(netlink.Reason)


def test_defines(header: str) -> None:
    found = defines(header)
    for name in (
        "NAME_LEN",
        "GUARD_LEN",
        "DIGEST_LEN",
        "FAMILY_VERSION",
        "SERVICE_MAX",
        "RULE_NONE",
        "RULE_F_LOG",
    ):
        assert getattr(netlink, name) == found[name], name
    bounds = [name for name in found if name.startswith("MAX_")]
    assert len(bounds) == 9
    for name in bounds:
        assert getattr(netlink, name) == found[name], name
    assert constants(header, "bw_reason")["BW_REASON_MAX"] == netlink.REASON_MAX
    assert f'"{netlink.FAMILY_NAME}"' in header


@pytest.mark.parametrize("attr", list(netlink.STRUCTS))
def test_struct(header: str, attr: netlink.Attr) -> None:
    name = "bw_nl_" + attr.name.replace("SECTION_", "").lower()
    body = re.search(r"struct %s \{(.*?)\}" % name, header, re.DOTALL)
    assert body, name
    size, aligned = 0, 1
    for kind, count in re.findall(r"(\w+) \w+(?:\[(\w+)\])?;", body.group(1)):
        number = {"BW_NAME_LEN": 64, "": 1}.get(count) or int(count)
        # "No implicit padding": every member is at home where it is.
        assert size % SIZES[kind] == 0
        size += SIZES[kind] * number
        aligned = max(aligned, SIZES[kind])
    assert size % aligned == 0
    assert struct.calcsize(netlink.STRUCTS[attr]) == size
