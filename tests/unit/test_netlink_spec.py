# SPDX-License-Identifier: GPL-3.0-or-later
"""The netlink interface is written down three times: as specification (kmod/bridgewarden.yaml),
for C (kmod/uapi/bridgewarden.h) and for Python (plugins/module_utils/_abi.py). They must agree."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import yaml

KMOD = Path(__file__).resolve().parents[2] / "kmod"
SPEC = yaml.safe_load((KMOD / "bridgewarden.yaml").read_text())
HEADER = re.sub(r"/\*.*?\*/", "", (KMOD / "uapi" / "bridgewarden.h").read_text(), flags=re.S)

C_SIZES = {"__u8": 1, "char": 1, "__u16": 2, "__u32": 4, "__s32": 4, "__be32": 4, "__u64": 8}
SPEC_SIZES = {"u8": 1, "u16": 2, "u32": 4, "s32": 4, "u64": 8}


def header_enum(name: str) -> dict[str, int]:
    body = re.search(r"enum bw_%s \{(.*?)\};" % name, HEADER, re.S)
    assert body, "enum bw_%s is not in the header" % name
    values, at = {}, 0
    for entry in filter(None, (part.strip() for part in body.group(1).split(","))):
        member, _, number = (part.strip() for part in entry.partition("="))
        at = int(number) if number else at
        values[member] = at
        at += 1
    return {member: number for member, number in values.items() if not member.startswith("__")}


def header_constant(name: str) -> int:
    found = re.search(r"#define %s\s+\(?(.+?)\)?\n" % name, HEADER)
    assert found, "%s is not in the header" % name
    return int(eval(re.sub(r"(?<=[0-9a-f])U\b", "", found.group(1))))


def header_struct(name: str) -> list[tuple[str, int]]:
    """(field, bytes) in order."""
    body = re.search(r"struct bw_%s \{(.*?)\};" % name, HEADER, re.S)
    assert body, "struct bw_%s is not in the header" % name
    fields = []
    for kind, field, count in re.findall(r"(\w+) (\w+)(?:\[(\w+)\])?;", body.group(1)):
        times = 1 if not count else int(count) if count.isdigit() else header_constant(count)
        fields.append((field, C_SIZES[kind] * times))
    return fields


def spec_enum(name: str) -> dict[str, int]:
    definition = next(d for d in SPEC["definitions"] if d["name"] == name)
    assert definition["type"] == "enum"
    return {constant(definition["name-prefix"] + e["name"]): e["value"] for e in definition["entries"]}


def numbered(items: list[dict], prefix: str) -> dict[str, int]:
    """Names to numbers: given, or one more than the one before."""
    numbers, at = {}, 0
    for item in items:
        at = item.get("value", at + 1)
        numbers[constant(prefix + item["name"])] = at
    return numbers


def constant(name: str) -> str:
    return name.upper().replace("-", "_")


ATTRIBUTES = SPEC["attribute-sets"][0]["attributes"]
SPEC_ATTRS = numbered(ATTRIBUTES, "bw-attr-")
SPEC_CMDS = numbered(SPEC["operations"]["list"], SPEC["operations"]["name-prefix"])
STRUCTS = [d["name"] for d in SPEC["definitions"] if d["type"] == "struct"]
ENUMS = [d["name"] for d in SPEC["definitions"] if d["type"] == "enum"]


def without_unspec(values: dict[str, int]) -> dict[str, int]:
    return {name: number for name, number in values.items() if not name.endswith("_UNSPEC")}


def test_commands() -> None:
    assert without_unspec(header_enum("cmd")) == SPEC_CMDS


def test_attributes() -> None:
    assert without_unspec(header_enum("attr")) == SPEC_ATTRS


@pytest.mark.parametrize("name", ENUMS)
def test_enums(name: str) -> None:
    assert spec_enum(name) == header_enum(name.replace("-", "_"))


def test_no_enum_or_struct_is_missing() -> None:
    assert set(re.findall(r"enum bw_(\w+) \{", HEADER)) == {name.replace("-", "_") for name in ENUMS} | {
        "cmd",
        "attr",
    }
    assert {constant(name) for name in STRUCTS} == {
        constant(name) for name in re.findall(r"struct bw_(\w+) \{", HEADER)
    }


@pytest.mark.parametrize("name", STRUCTS)
def test_structs(name: str) -> None:
    definition = next(d for d in SPEC["definitions"] if d["name"] == name)
    members = [
        (m["name"].replace("-", "_"), m.get("len") or SPEC_SIZES[m["type"]]) for m in definition["members"]
    ]
    assert members == header_struct(name.replace("-", "_"))


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_have_no_implicit_padding(name: str) -> None:
    offset, widest = 0, 1
    body = re.search(r"struct bw_%s \{(.*?)\};" % name.replace("-", "_"), HEADER, re.S)
    assert body
    for (kind, field), (_, size) in zip(
        re.findall(r"(\w+) (\w+)(?:\[\w+\])?;", body.group(1)), header_struct(name.replace("-", "_"))
    ):
        assert offset % C_SIZES[kind] == 0, field
        offset += size
        widest = max(widest, C_SIZES[kind])
    assert offset % widest == 0


def test_family() -> None:
    assert '#define BW_FAMILY_NAME\t\t"%s"' % SPEC["name"] in HEADER
    assert header_constant("BW_FAMILY_VERSION") == SPEC["version"]


def test_operations_speak_of_attributes_that_exist() -> None:
    known = {a["name"] for a in ATTRIBUTES}
    for operation in SPEC["operations"]["list"]:
        assert operation["flags"] == ["admin-perm"], operation["name"]
        for part in ("do", "dump"):
            for way in ("request", "reply"):
                used = operation.get(part, {}).get(way, {}).get("attributes", [])
                assert set(used) <= known, operation["name"]


def test_bounds_in_the_documentation() -> None:
    by_name = {a["name"]: a for a in ATTRIBUTES}
    for section, bound in (
        ("identity", "IDENTITIES"),
        ("cell4", "CELLS"),
        ("endpoint6", "ENDPOINTS"),
        ("publish", "PUBLISH"),
        ("rule", "RULES"),
        ("span", "SPANS"),
        ("block", "BLOCKS"),
        ("pair", "PAIRS"),
        ("prefix4", "PREFIXES"),
        ("prefix6", "PREFIXES"),
        ("behind", "BEHIND"),
    ):
        power = header_constant("BW_MAX_" + bound).bit_length() - 1
        assert "at most 2^%d in all" % power in by_name["section-" + section]["doc"]
    assert by_name["guard"]["checks"]["max-len"] == header_constant("BW_GUARD_LEN") - 1


def test_handlers_take_what_the_specification_says() -> None:
    source = (KMOD / "nl.c").read_text()
    head = set(
        re.findall(r"BW_A\((\w+)\)", re.search(r"#define BW_HEAD(.*?)\n#define", source, re.S).group(1))
    )
    sections = {constant(a["name"]) for a in ATTRIBUTES if a["name"].startswith("section-")}
    table = re.search(r"bw_nl_cmd_attrs\[BW_CMD_MAX \+ 1\]\[2\] = \{(.*?)\n\};", source, re.S).group(1)
    takes = {}
    for cmd, expression in re.findall(r"\[BW_CMD_(\w+)\] = (.*?),\n(?=\t\[|$)", table + "\n", re.S):
        takes[cmd] = set(re.findall(r"BW_A2?\((\w+)\)", expression))
        takes[cmd] |= head if "BW_HEAD" in expression else set()
        takes[cmd] |= sections if "BW_SECTIONS" in expression else set()
    for operation in SPEC["operations"]["list"]:
        wanted = operation.get("do", {}).get("request", {}).get("attributes", [])
        assert takes.get(constant(operation["name"]), set()) == {constant(name) for name in wanted}, (
            operation["name"]
        )


def test_one_version() -> None:
    version = re.search(r'#define BW_VERSION "(.+?)"', (KMOD / "version.h").read_text()).group(1)
    dkms = dict(re.findall(r'^(\w+)="(.*?)"', (KMOD / "dkms.conf").read_text(), re.M))
    galaxy = yaml.safe_load((KMOD.parent / "galaxy.yml").read_text())
    assert version == dkms["PACKAGE_VERSION"] == galaxy["version"]
    assert dkms["PACKAGE_NAME"] == SPEC["name"]


# The Python side.

abi = pytest.importorskip("ansible_collections.bridgewarden.docker.plugins.module_utils._abi")


def test_python_commands() -> None:
    assert {"BW_CMD_" + c.name: c.value for c in abi.Cmd} == SPEC_CMDS


def test_python_attributes() -> None:
    assert without_unspec({"BW_ATTR_" + a.name: a.value for a in abi.Attr}) == SPEC_ATTRS


@pytest.mark.parametrize(
    "name, enum",
    [
        ("id", "Identity"),
        ("mode", "Mode"),
        ("placement", "Placement"),
        ("action", "Action"),
        ("class", "DirectionClass"),
        ("kind", "Kind"),
        ("reason", "Reason"),
        ("trace-state", "TraceState"),
    ],
)
def test_python_enums(name: str, enum: str) -> None:
    prefix = "BW_%s_" % name.removesuffix("-state").upper()
    numbers = {prefix + member.name: member.value for member in getattr(abi, enum)}
    assert numbers == {
        member: number for member, number in spec_enum(name).items() if member != "BW_REASON_MAX"
    }


def test_python_constants() -> None:
    for name in (
        "NAME_LEN",
        "GUARD_LEN",
        "DIGEST_LEN",
        "MAX_GUARDS",
        "MAX_IDENTITIES",
        "MAX_CELLS",
        "MAX_ENDPOINTS",
        "MAX_PUBLISH",
        "MAX_RULES",
        "MAX_PREFIXES",
        "MAX_BEHIND",
        "MAX_SPANS",
        "MAX_BLOCKS",
        "MAX_PAIRS",
        "MAX_TRACES",
        "MAX_TERMS",
        "MAX_TRACE_SECONDS",
        "MAX_TRACE_EVENTS",
        "MAX_TRACE_RATE",
        "WHO_LEN",
        "TERM_F_EXCEPT",
        "SERVICE_MAX",
        "RULE_NONE",
    ):
        assert getattr(abi, name) == header_constant("BW_" + name), name
    assert header_enum("reason")["BW_REASON_MAX"] == abi.REASON_MAX


def test_python_structs() -> None:
    of_section = {constant(a["name"]): a["struct"] for a in ATTRIBUTES if "struct" in a}
    layouts = {**abi.STRUCTS, **abi.TRACE_STRUCTS}
    assert {attr.name for attr in layouts} == set(of_section)
    for attr, layout in layouts.items():
        fields = header_struct(of_section[attr.name].replace("-", "_"))
        assert struct.calcsize(layout) == sum(size for _, size in fields), attr.name
        sizes = []
        for count, kind in re.findall(r"(\d*)([a-zA-Z])", layout.lstrip("=")):
            sizes += [int(count or 1)] if kind == "s" else [struct.calcsize("=" + kind)] * int(count or 1)
        reserved = [size for name, size in fields if name == "reserved" and size == 6]
        expected = [
            s for name, size in fields for s in ([2, 2, 2] if name == "reserved" and reserved else [size])
        ]
        assert sizes == expected, attr.name
