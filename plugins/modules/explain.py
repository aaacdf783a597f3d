#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: explain
short_description: Which verdict would this connection get, and by which rule
version_added: 0.1.0
description:
  - Asks the kernel module what it would decide about a connection, without sending a packet and without counting.
  - With O(policy) it answers for a policy that is not committed, with the containers of now. The kernel module is not asked then.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
  - bridgewarden.docker._docker
options:
  from:
    description:
      - Who opens the connection. A container's name, an address, V(host), or V(world) for an address outside that no
        rule names.
    type: str
    required: true
  to:
    description:
      - Who answers. A container's name, an address or V(host). With V(host) and a published port the answer is about
        the container behind it.
    type: str
    required: true
  service:
    description: The container's port in Docker's notation, or an ICMP type, as in the policy's C(ports).
    type: str
    required: true
  direct:
    description: Whether the connection comes from outside to the container's own address, not to a published port.
    type: bool
    default: false
  policy:
    description:
      - A policy as M(bridgewarden.docker.policy) takes it. Without it the answer is about the policy in force.
    type: dict
"""

EXAMPLES = r"""
- name: May the shop talk to its database
  bridgewarden.docker.explain:
    from: web
    to: db
    service: 5432/tcp
  register: answer

- name: May it by the policy of the inventory, before that is committed
  bridgewarden.docker.explain:
    policy: "{{ my_policy }}"
    from: web
    to: db
    service: 5432/tcp

- name: Show why
  ansible.builtin.debug:
    var: answer.words
"""

RETURN = r"""
action:
  description: V(allow), V(deny) or V(reject). V(mixed) where the addresses of the two differ in it.
  returned: success
  type: str
words:
  description: One sentence for each pair of addresses.
  returned: success
  type: list
  elements: str
  sample: ['allow web (172.18.0.2) -> db (172.18.0.3) 5432/tcp: the rule "only the app reaches the database"']
answers:
  description: The same as data.
  returned: success
  type: list
  elements: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import (
    DOCKER_SOCKET,
    failing,
    warner,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import (
    Uncommitted,
    explain_peers,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import host_clock
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel


def explain(module: AnsibleModule) -> t.Dict[str, t.Any]:
    params = module.params
    asked = params["from"], params["to"], params["service"], params["direct"]
    if params["policy"] is not None:
        facts = collect_facts(params["docker_socket"], warn=warner(module))
        clock = host_clock(Store().read_applied_or_none())
        answers = explain_peers(Uncommitted(params["policy"], facts, clock), facts, *asked)
    else:
        with Kernel() as kernel:
            facts = collect_facts(params["docker_socket"], warn=warner(module))
            answers = explain_peers(kernel, facts, *asked)
    actions = {answer["action"] for answer in answers}
    return {
        "action": actions.pop() if len(actions) == 1 else "mixed",
        "words": [answer["words"] for answer in answers],
        "answers": answers,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "direct": {"type": "bool", "default": False},
            "policy": {"type": "dict"},
            **DOCKER_SOCKET,
        },
        supports_check_mode=True,
    )
    with failing(module):
        module.exit_json(changed=False, **explain(module))


if __name__ == "__main__":
    main()
