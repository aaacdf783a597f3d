# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The numbers and structs of kmod/uapi/bridgewarden.h, and nothing else.

The compiler and the client of the kernel module both need them, so they stand below both.
tests/unit/test_netlink_spec.py compares them with kmod/bridgewarden.yaml.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import enum
import typing as t

FAMILY_NAME = "bridgewarden"
FAMILY_VERSION = 2

NAME_LEN = 64  # NUL included
GUARD_LEN = 32  # NUL included
DIGEST_LEN = 32
MAX_GUARDS = 64
MAX_IDENTITIES = 1 << 20
MAX_CELLS = 1 << 20
MAX_ENDPOINTS = 1 << 20
MAX_PUBLISH = 1 << 17
MAX_RULES = 1 << 17
MAX_SPANS = 1 << 22
MAX_BLOCKS = 1 << 22
MAX_PAIRS = 1 << 22
MAX_PREFIXES = 1 << 14  # of each family
MAX_BEHIND = 1 << 16  # ports of all sets
MAX_TRACES = 4  # at once
MAX_TERMS = 64
MAX_TRACE_SECONDS = 3600
MAX_TRACE_EVENTS = 10000000
MAX_TRACE_RATE = 1000000
WHO_LEN = 88

SERVICE_MAX = 0xFFFFFF
RULE_NONE = 0xFFFFFFFF
RULE_F_LOG = 1 << 0
RULE_F_BYPASS = 1 << 1
TERM_F_EXCEPT = 1 << 0
REASON_MAX = 64


class Cmd(enum.IntEnum):
    INFO_GET = 1
    BEGIN = 2
    ADD = 3
    COMMIT = 4
    ABORT = 5
    CONFIRM = 6
    ROLLBACK = 7
    RULE_GET = 8
    ENDPOINT_GET = 9
    EXPLAIN = 10
    SEAL = 11
    TRACE_BEGIN = 12
    TRACE_GET = 13
    TRACE_END = 14
    HOOK_GET = 15
    PREFIX_GET = 16
    UNMANAGED_GET = 17


class Attr(enum.IntEnum):
    UNSPEC = 0
    PAD = 1
    VERSION = 2
    GENERATION = 3
    EXPECT_GENERATION = 4
    MODE = 5
    DEFAULTS = 6
    POLICY_DIGEST = 7
    RULESET_DIGEST = 8
    DRY_RUN = 9
    CONFIRM_TIMEOUT = 10
    CONFIRM_REMAINING = 11
    GUARD = 12
    GUARD_LINK = 13
    SECTION_IDENTITY = 14
    SECTION_CELL4 = 15
    SECTION_CELL6 = 16
    SECTION_ENDPOINT4 = 17
    SECTION_ENDPOINT6 = 18
    SECTION_PUBLISH = 19
    SECTION_RULE = 20
    SECTION_SPAN = 21
    SECTION_BLOCK = 22
    SECTION_PAIR = 23
    COUNT_IDENTITIES = 24
    COUNT_CELLS = 25
    COUNT_ENDPOINTS = 26
    COUNT_PUBLISH = 27
    COUNT_RULES = 28
    COUNT_PAIRS = 29
    HOOKS_FIRST = 30
    HOOKS_EXPECTED = 31
    RULE_INDEX = 32
    RULE_KEY = 33
    RULE_NAME = 34
    ACTION = 35
    PACKETS = 36
    BYTES = 37
    FAMILY = 38
    PROTO = 39
    FROM_ADDR = 40
    TO_ADDR = 41
    PORT = 42
    FROM_KIND = 43
    TO_KIND = 44
    DIRECT = 45
    CLASS = 46
    FROM_IDENTITY = 47
    TO_IDENTITY = 48
    ADDR = 49
    IDENTITY = 50
    LINK = 51
    LINK_PORT = 52
    PLACEMENT = 53
    LOG_GROUP = 54
    LOG_DEFAULTS = 55
    LOG_SWALLOWED = 56
    SEALED = 57
    HOOK_AHEAD = 58
    QUEUE_NUM = 59
    QUEUE_COUNT = 60
    QUEUE_BYPASS = 61
    PARENT = 62
    COUNT_NAMESPACES = 63
    TRACE_ID = 64
    TRACE_TERM = 65
    TRACE_SECONDS = 66
    TRACE_EVENTS = 67
    TRACE_RATE = 68
    TRACE_REPORTED = 69
    TRACE_WITHHELD = 70
    TRACE_STATE = 71
    TRACE_BLIND = 72
    NETNS_FD = 73
    HOOK = 74
    COUNT_TRACES = 75
    COUNT_RETURNED = 76
    SECTION_PREFIX4 = 77
    SECTION_PREFIX6 = 78
    SECTION_BEHIND = 79
    COUNT_PREFIXES = 80
    COUNT_BEHIND = 81
    PREFIX_LENGTH = 82
    PREFIX_SET = 83
    MAC = 84
    IDLE = 85
    UNMANAGED_LOST = 86


class Identity(enum.IntEnum):
    UNMANAGED = 0
    WORLD = 1
    HOST = 2
    FIRST = 3


class Mode(enum.IntEnum):
    ENFORCE = 0
    AUDIT = 1


class Placement(enum.IntEnum):
    FORWARD = 0
    POSTROUTING = 1
    CONTAINER = 2


class Action(enum.IntEnum):
    ALLOW = 0
    DENY = 1
    REJECT = 2
    QUEUE = 3


class DirectionClass(enum.IntEnum):
    INGRESS = 0
    EGRESS = 1
    INTER_CONTAINER = 2
    TO_HOST = 3
    FROM_HOST = 4
    HOST_INGRESS = 5


class Kind(enum.IntEnum):
    WORLD = 0
    HOST = 1
    GUARDED = 2


class TraceState(enum.IntEnum):
    RUNNING = 0
    TIME = 1
    EVENTS = 2
    ENDED = 3


class Reason(enum.IntEnum):
    DEFAULT_INGRESS = 0
    DEFAULT_EGRESS = 1
    DEFAULT_INTER_CONTAINER = 2
    DEFAULT_TO_HOST = 3
    DEFAULT_FROM_HOST = 4
    DEFAULT_HOST_INGRESS = 5
    UNMANAGED = 6
    SPOOFED = 7
    INVALID = 8
    MALFORMED = 9
    DIRECT = 10
    NEIGHBOUR = 11
    HOST_ERROR = 12
    CLOSED = 13
    BARE_PORT = 14
    BARE_PORT_NEIGHBOUR = 15
    UNSEEN = 16
    UNPLACED = 17


#: What the built-in reasons mean, for people.
REASON_WORDS: t.Dict[int, str] = {
    Reason.DEFAULT_INGRESS: "default for outside to container",
    Reason.DEFAULT_EGRESS: "default for container to outside",
    Reason.DEFAULT_INTER_CONTAINER: "default for container to container",
    Reason.DEFAULT_TO_HOST: "default for container to host",
    Reason.DEFAULT_FROM_HOST: "default for host to container",
    Reason.DEFAULT_HOST_INGRESS: "default for outside to the host's own sockets",
    Reason.UNMANAGED: "an address behind a guard that is no known container's takes part",
    Reason.SPOOFED: "the source address does not belong to the link it came from",
    Reason.INVALID: "connection tracking calls the packet invalid",
    Reason.MALFORMED: "the packet is truncated or has no transport header to judge by",
    Reason.DIRECT: "outside to a container's own address, not through a published port",
    Reason.NEIGHBOUR: "neighbour discovery or multicast listener discovery",
    Reason.HOST_ERROR: "the host's own reset or ICMP error",
    Reason.CLOSED: "the guards have no ruleset yet: closed",
    Reason.BARE_PORT: "by a port of a guarded bridge itself, past the bridge",
    Reason.BARE_PORT_NEIGHBOUR: "the host's own neighbour discovery at a port of a guarded bridge",
    Reason.UNSEEN: "across a guarded bridge, not shown to netfilter's IP hooks (VLAN tag, PPPoE, or the bridge's switch is off)",
    Reason.UNPLACED: "where the packet entered the host cannot be determined",
}

#: struct formats of the bulk sections: host byte order, no padding; addresses are bytes.
STRUCTS: t.Dict[Attr, str] = {
    Attr.SECTION_IDENTITY: "=II",
    Attr.SECTION_CELL4: "=4sII",
    Attr.SECTION_CELL6: "=16sII",
    Attr.SECTION_ENDPOINT4: "=4sIII",
    Attr.SECTION_ENDPOINT6: "=16sIII",
    Attr.SECTION_PUBLISH: "=BBH16sBBH16s",
    Attr.SECTION_RULE: "=QBB3H64s",
    Attr.SECTION_SPAN: "=IIII",
    Attr.SECTION_BLOCK: "=II",
    Attr.SECTION_PAIR: "=III",
    Attr.SECTION_PREFIX4: "=4sIII",
    Attr.SECTION_PREFIX6: "=16sIII",
    Attr.SECTION_BEHIND: "=III",
}
#: The same for structs that are no part of a ruleset.
TRACE_STRUCTS: t.Dict[Attr, str] = {
    Attr.TRACE_TERM: "=BBHBBHII16s16s",
    Attr.HOOK: "=BBHi88s",
}


HOOKS = ("PRE_ROUTING", "LOCAL_IN", "FORWARD", "LOCAL_OUT", "POST_ROUTING")
HOOK_FAMILIES = {2: "IPv4", 7: "bridge", 10: "IPv6"}
