#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bridge_netfilter
short_description: Makes the traffic within a bridge visible to netfilter
version_added: 0.1.0
description:
  - Traffic between two containers on one bridge passes no filter of the host unless the bridge is told to
    show it.
    Newer versions of Docker no longer do that by themselves.
  - Loads br_netfilter, persists it so that it is there before C(sysctl.d) is applied at boot, and makes the
    settings,
    live and persistent, in one task.
  - Remembers what was there before, the first time, in C(/var/lib/bridgewarden/before.json).
  - Makes all of its changes, or fails and undoes those that it had made.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._docker
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(absent) restores what was there before the first V(present), and removes the files.
      - V(restored) undoes one run of V(present), given what it returned as RV(former).
    type: str
    choices: [present, absent, restored]
    default: present
  former:
    description: Of the run that O(state=restored) undoes.
    type: dict
  scope:
    description:
      - V(global) sets C(net.bridge.bridge-nf-call-iptables) and C(net.bridge.bridge-nf-call-ip6tables) to 1,
        which acts
        on every bridge of the host.
      - V(guarded) sets both to 0 and the own switch of each guarded bridge to 1, with a udev rule for new
        ones.
        Bridges of virtual machines keep out of Docker's rules this way.
      - V(auto) is V(global), unless the host has bridges that are neither Docker's nor guarded; then it is
        V(guarded).
        It stays V(global) where those are of Kubernetes, or another file in C(sysctl.d) asks for the global
        setting.
    type: str
    choices: [global, guarded, auto]
    default: auto
  guards:
    description:
      - Patterns of the guarded bridges' names. Docker's bridges count as guarded in any case.
      - Which bridges are Docker's, dockerd is asked at O(docker_socket). When it does not answer they are recognised by their names.
    type: list
    elements: str
    default: ["br-[0-f][0-f][0-f][0-f]????????", docker0, docker_gwbridge]
  unguarded:
    description: Patterns of the names of Docker's bridges that the policy leaves out. They are treated like other software's bridges.
    type: list
    elements: str
    default: []
notes:
  - Wherever rules at FORWARD stand, of nftables or of iptables, they begin to act on traffic within these bridges.
    Those that C(nft) lists are named in a warning when the settings come on. Therefore only a policy in mode
    V(enforce) wants them, and the role takes them back in mode V(audit).
  - With O(scope=guarded) the switch of a new bridge is set by udev, some milliseconds after the bridge
    appears.
  - With O(scope=guarded) and br_netfilter not yet loaded, loading it turns the global setting on for a
    moment.
"""

EXAMPLES = r"""
- name: Same-bridge traffic reaches the filters
  bridgewarden.docker.bridge_netfilter:
  register: bridges

- name: Which way, and why
  ansible.builtin.debug:
    msg: "{{ bridges.scope }}: {{ bridges.scope_reason }}"

- name: Undo that run
  bridgewarden.docker.bridge_netfilter:
    state: restored
    former: "{{ bridges.former }}"

- name: As it was before
  bridgewarden.docker.bridge_netfilter:
    state: absent
"""

RETURN = r"""
scope:
  description: V(global) or V(guarded), as it was decided; empty with O(state=absent).
  returned: success
  type: str
  sample: guarded
scope_reason:
  description: Why.
  returned: success
  type: str
  sample: with the global setting, Docker's own rules would act on virbr0 too
actions:
  description: What was done, or would be done in check mode, in plain words.
  returned: success
  type: list
  elements: str
  sample: [loaded br_netfilter, set docker0 nf_call_iptables to 1]
former:
  description: What the run changed, as it was before, for O(state=restored). Empty in check mode.
  returned: success
  type: dict
bridges:
  description: All bridges of the host with their own switches.
  returned: success
  type: list
  elements: dict
  sample:
    - name: docker0
      docker: true
      guarded: true
      ports: [veth4427ad1]
      before: {nf_call_iptables: 0, nf_call_ip6tables: 0}
      after: {nf_call_iptables: 1, nf_call_ip6tables: 1}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import (
    DOCKER_SOCKET,
    failing,
    warner,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.bridges import (
    ask_docker,
    converge_bridges,
    restore_bridges,
    without,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
            "former": {"type": "dict"},
            "scope": {"type": "str", "choices": ["global", "guarded", "auto"], "default": "auto"},
            "guards": {"type": "list", "elements": "str", "default": list(GUARDS)},
            "unguarded": {"type": "list", "elements": "str", "default": []},
            **DOCKER_SOCKET,
        },
        supports_check_mode=True,
        required_if=[("state", "restored", ["former"])],
    )
    with failing(module):
        if module.params["state"] == "restored":
            outcome = restore_bridges(module.params["former"], module.check_mode)
        else:
            outcome = converge_bridges(
                module.params["state"],
                module.params["scope"],
                module.params["guards"],
                without(ask_docker(module.params["docker_socket"]), module.params["unguarded"]),
                module.check_mode,
            )
    for warning in outcome.warnings:
        warner(module)(warning)
    module.exit_json(
        changed=outcome.changed,
        scope=outcome.scope,
        scope_reason=outcome.scope_reason,
        actions=outcome.actions,
        bridges=outcome.bridges,
        former=outcome.former,
        diff={"before": text(outcome.before), "after": text(outcome.after)},
    )


def text(lines: list[str]) -> str:
    return "".join(printable(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
