#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: info
short_description: State and counters of the kernel module
version_added: 0.1.0
description:
  - Returns what the kernel module C(bridgewarden) has in force on the host, and what each rule has counted.
  - Does not fail where the module is not loaded, RV(loaded) tells.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._docker
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
options:
  rules:
    description: Whether to return the rules with their counters.
    type: bool
    default: true
  endpoints:
    description: Whether to return the endpoints the kernel knows now.
    type: bool
    default: false
  not_covered:
    description: Whether to return what of Docker's no rule can judge. dockerd is asked for it; where it does not answer, that is a warning.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Read the state
  bridgewarden.docker.info:
  register: bridgewarden

- name: The hooks must run before everybody else's
  ansible.builtin.assert:
    that: bridgewarden.hooks_in_place
"""

RETURN = r"""
loaded:
  description: Whether the kernel module is loaded.
  returned: always
  type: bool
version:
  description: Version of the loaded module.
  returned: when loaded
  type: str
  sample: 0.1.0
generation:
  description: Of the ruleset in force. V(0) where there is none.
  returned: when loaded
  type: int
mode:
  description: V(enforce) or V(audit).
  returned: when loaded
  type: str
placement:
  description: Where verdicts are taken, V(forward), V(postrouting) or V(container).
  returned: when loaded
  type: str
defaults:
  description: The verdict of each direction class where no rule matches.
  returned: when loaded
  type: dict
policy_digest:
  description: Of the policy in force, as M(bridgewarden.docker.policy) returns it.
  returned: when loaded
  type: str
ruleset_digest:
  description: Of the ruleset in force.
  returned: when loaded
  type: str
confirm_remaining:
  description: Seconds left of an open confirm window. V(0) where none is open.
  returned: when loaded
  type: int
guards:
  description: Patterns of link names that are guarded.
  returned: when loaded
  type: list
  elements: str
parents:
  description: Patterns of the host's links whose macvlan and ipvlan children are judged, with placement V(container).
  returned: when loaded
  type: list
  elements: str
namespaces:
  description: How many containers' namespaces are judged inside now.
  returned: when loaded
  type: int
traces:
  description: How many traces run now.
  returned: when loaded
  type: int
guard_links:
  description: The links that are guarded now.
  returned: when loaded
  type: list
  elements: dict
  sample: [{index: 5, name: docker0}]
counts:
  description:
    - Sizes of the ruleset. C(prefixes) is the number of routed prefixes, of which the kernel takes 16384 of each family,
      C(behind) that of the ports that they are behind, of which it takes 65536.
  returned: when loaded
  type: dict
hooks_in_place:
  description: Whether the module's hooks run first wherever they should.
  returned: when loaded
  type: bool
hooks_ahead:
  description: Who runs before the module's hooks, and where.
  returned: when loaded
  type: list
  elements: str
  sample: ["IPv4 FORWARD nft_do_chain_ipv4 [nf_tables]"]
log_group:
  description: The nfnetlink_log group that log lines go to.
  returned: when loaded
  type: int
log_defaults:
  description: Whether packets that are dropped without a rule are logged, too.
  returned: when loaded
  type: bool
log_swallowed:
  description: Log lines that the rate limit has kept back since the module was loaded.
  returned: when loaded
  type: int
sealed:
  description: Whether nothing can be changed until reboot.
  returned: when loaded
  type: bool
returned:
  description: Endpoints that the kernel closed with their port and whose place is there again. The agent's next commit opens them.
  returned: when loaded
  type: int
not_covered:
  description: What of Docker's on this host no rule can judge, the same as M(bridgewarden.docker.preflight) returns.
  returned: when loaded, O(not_covered), and where dockerd answers
  type: list
  elements: dict
  sample:
    - what: overlay network
      name: ov
      why: what its tasks say to one another crosses hosts inside VXLAN and never a guarded bridge
      hint: "docker_gwbridge is guarded: what tasks say to the outside, and the routing mesh, are judged there"
rules:
  description: Rules and built-in reasons with their counters.
  returned: when loaded and O(rules)
  type: list
  elements: dict
  sample: [{name: office reaches the web shop, action: allow, packets: 42, bytes: 5040, builtin: false, index: 16}]
endpoints:
  description: The endpoints the kernel knows now. Identity 0 is closed, its link is gone.
  returned: when loaded and O(endpoints)
  type: list
  elements: dict
  sample: [{address: 172.18.0.2, identity: 3, link: 5, port: 9}]
prefixes:
  description:
    - The routed prefixes of groups with C(behind), and the ports, as pairs of link and port, that they are behind now.
    - Without a port a prefix is closed.
  returned: when loaded and O(endpoints)
  type: list
  elements: dict
  sample: [{prefix: 10.13.13.0/24, identity: 4, number: 0, ports: [[5, 9]]}]
"""

import contextlib
import socket
import typing as t
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import (
    DOCKER_SOCKET,
    failing,
    warner,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    DockerUnavailable,
    ModuleMissing,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.not_covered import not_covered
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info


def state(info: Info) -> t.Dict[str, t.Any]:
    found = asdict(info)
    del found["hooks_first"], found["hooks_expected"]
    found["hooks_in_place"] = info.hooks_in_place
    found["guard_links"] = [{"index": index, "name": link_name(index)} for index in info.guard_links]
    return found


def link_name(index: int) -> str:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index)
    return ""


def collect(params: t.Dict[str, t.Any], warn: t.Callable[[str], None]) -> t.Dict[str, t.Any]:
    with Kernel() as kernel:
        info = kernel.info()
        found = dict(state(info), loaded=True)
        if params["rules"]:
            found["rules"] = [dict(asdict(row), builtin=row.builtin) for row in kernel.rules()]
        if params["endpoints"]:
            found["endpoints"] = [asdict(row) for row in kernel.endpoints()]
            found["prefixes"] = (
                [asdict(row) for row in kernel.prefixes()] if found["counts"]["prefixes"] else []
            )
    if params["not_covered"]:
        try:
            facts = collect_facts(params["docker_socket"])
        except DockerUnavailable as error:
            warn(f"what is not covered could not be told: {error.text()}")
        else:
            found["not_covered"] = not_covered(
                facts,
                info.placement,
                (Store().read_policy_or_none() or {}).get("unguarded") or (),
                info.guard_links,
            )
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "rules": {"type": "bool", "default": True},
            "endpoints": {"type": "bool", "default": False},
            "not_covered": {"type": "bool", "default": True},
            **DOCKER_SOCKET,
        },
        supports_check_mode=True,
    )
    with failing(module):
        try:
            module.exit_json(changed=False, **collect(module.params, warner(module)))
        except ModuleMissing:
            module.exit_json(changed=False, loaded=False)


if __name__ == "__main__":
    main()
