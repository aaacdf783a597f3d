#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compliance
short_description: Checks a host against its inventory, with evidence
version_added: 0.1.0
description:
  - One control for each thing that can drift, with what was expected and what was found.
  - Changes nothing, and can be run on a host that was never hardened.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
  - bridgewarden.docker._docker
options:
  policy:
    description: The policy that the inventory wants, as for M(bridgewarden.docker.policy).
    type: dict
    required: true
  version:
    description: The version that the kernel module should have.
    type: str
    required: true
  bridge_scope:
    description: The scope that the inventory wants, as for M(bridgewarden.docker.bridge_netfilter).
    type: str
    choices: [global, guarded, auto]
    default: auto
  seal:
    description: Whether the inventory wants the kernel module sealed.
    type: bool
    default: false
  require:
    description: Whether the inventory wants dockerd to wait until a policy is in force.
    type: bool
    default: false
notes:
  - A control that cannot be judged has the status V(error), which is not a pass.
  - Fails only where the policy itself is wrong. What to make of the controls is up to the playbook.
seealso:
  - module: bridgewarden.docker.policy
  - module: bridgewarden.docker.bridge_netfilter
"""

EXAMPLES = r"""
- name: Check the host
  bridgewarden.docker.compliance:
    policy: "{{ my_policy }}"
    version: 0.1.0
  register: compliance

- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ compliance.controls | rejectattr('status', 'equalto', 'pass') }}"
"""

RETURN = r"""
controls:
  description: All controls, always the same ones in the same order.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Stable name of the control.
      type: str
      returned: always
      sample: bridge_live
    title:
      description: What it says when it passes.
      type: str
      returned: always
    severity:
      description: V(critical), V(high) or V(medium).
      type: str
      returned: always
    status:
      description: V(pass), V(fail), or V(error) where it could not be judged.
      type: str
      returned: always
    expected:
      description: What should be.
      type: raw
      returned: always
    actual:
      description: What is.
      type: raw
      returned: always
    remediation:
      description: What to do about it; empty where it passes.
      type: str
      returned: always
not_covered:
  description:
    - What of Docker's on the host no rule can judge, the same as M(bridgewarden.docker.preflight) returns.
    - No control passes or fails for it.
  returned: success
  type: list
  elements: dict
meta:
  description: Where and when this was found.
  returned: success
  type: dict
  sample:
    host: web1
    kernel: 6.12.117+deb13-cloud-amd64
    boot_id: 3f0e7a52-9f0b-4b8e-a6a4-8a8a1d1f7f3e
    time: "2026-11-23T08:00:00Z"
    module_srcversion: 093867DA18DCB7D1EDDEC29
    generation: 7
    policy_digest: 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
    docker_requires_policy: false
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import DOCKER_SOCKET, failing
from ansible_collections.bridgewarden.docker.plugins.module_utils._compliance.controls import examine_host
from ansible_collections.bridgewarden.docker.plugins.module_utils._compliance.host import HostState, Wanted


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "dict", "required": True},
            "version": {"type": "str", "required": True},
            "bridge_scope": {"type": "str", "choices": ["global", "guarded", "auto"], "default": "auto"},
            "seal": {"type": "bool", "default": False},
            "require": {"type": "bool", "default": False},
            **DOCKER_SOCKET,
        },
        supports_check_mode=True,
    )
    with failing(module):
        result = examine_host(HostState(Wanted(**module.params)))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
