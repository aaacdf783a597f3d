# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does IPVS translate connections on this host that conntrack does not track?

With net.ipv4.vs.conntrack = 0, the kernel's default, conntrack calls the
server's answers invalid, and the policy drops them whatever it allows.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._system import read_text

#: What a real server's line says when IPVS forwards to it by NAT, the one method that translates.
NAT = "Masq"
SERVICES = "/proc/net/ip_vs"
SYSCTL = "/proc/sys/net/ipv4/vs/conntrack"
HINT = "set net.ipv4.vs.conntrack = 1, in sysctl.d too"


def untracked_servers(root: str = "") -> t.List[str]:
    """The real servers behind IPVS NAT, as the kernel writes them, where conntrack does not track them.

    Empty where ip_vs is not loaded, has no such server in the host's own network namespace, or tracks them.
    """
    if read_text(root + SYSCTL) == "1":
        return []
    lines = (read_text(root + SERVICES) or "").splitlines()
    fields = (line.split() for line in lines)
    return sorted({words[1] for words in fields if len(words) > 2 and words[0] == "->" and words[2] == NAT})
