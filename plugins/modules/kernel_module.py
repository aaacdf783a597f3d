#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_module
short_description: Loads a kernel module, and loads it anew when it was rebuilt
version_added: 0.1.0
description:
  - Loads or unloads a kernel module of the running kernel.
  - A loaded module whose build differs from the one on disk (its C(srcversion)) is loaded anew where that is
    safe, and
    reported with RV(reboot_required) where it is not.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: The module's name.
    type: str
    required: true
  state:
    description: Whether it is loaded.
    type: str
    choices: [loaded, absent]
    default: loaded
  reload:
    description:
      - What to do when the loaded module differs from the one on disk.
      - V(safe) loads it anew if nobody uses it and the kernel lets it go. V(never) only reports it.
    type: str
    choices: [safe, never]
    default: safe
  parameters:
    description:
      - Parameters for loading, by name.
      - A module that is loaded is not loaded anew for them, since what it holds would be lost with it.
    type: dict
    default: {}
  reload_parameters:
    description:
      - Further parameters where a loaded module is replaced by a new build, for what must not happen in between.
    type: dict
    default: {}
notes:
  - M(community.general.modprobe) compares names only, so a rebuilt module stays unloaded there until the next
    reboot.
    For modules of the distribution that are never rebuilt at run time, it serves as well, and persists them.
  - Does not persist anything. bridgewarden's module is loaded at boot by C(bridgewarden.service).
seealso:
  - module: bridgewarden.docker.dkms
  - module: community.general.modprobe
"""

EXAMPLES = r"""
- name: Load the module, the new build of it if there is one
  bridgewarden.docker.kernel_module:
    name: bridgewarden
    reload_parameters:
      closed: ["br-[0-f][0-f][0-f][0-f]????????", docker0, docker_gwbridge]
  register: loading

- name: Say that the old build is still at work
  ansible.builtin.debug:
    msg: "{{ loading.reason }}"
  when: loading.reboot_required
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in plain words.
  returned: success
  type: list
  elements: str
  sample: ["reloaded bridgewarden: loaded is srcversion 1A2B, on disk is 3C4D"]
reboot_required:
  description: Whether the loaded module is not the wanted one and could not be replaced.
  returned: success
  type: bool
reason:
  description: Why it was loaded anew, or could not be.
  returned: success
  type: str
before:
  description: What was loaded.
  returned: success
  type: dict
  sample: {loaded: true, srcversion: 1A2B, version: 0.1.0}
after:
  description: What is loaded now.
  returned: success
  type: dict
  sample: {loaded: true, srcversion: 3C4D, version: 0.1.0}
kernel_log:
  description: The kernel's last lines about the module.
  returned: when the kernel refused it
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import failing, warner
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import (
    KernelModule,
    converge_module,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["loaded", "absent"], "default": "loaded"},
            "reload": {"type": "str", "choices": ["safe", "never"], "default": "safe"},
            "parameters": {"type": "dict", "default": {}},
            "reload_parameters": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    with failing(module):
        outcome = converge_module(
            KernelModule(module.params["name"]),
            module.params["state"],
            module.params["reload"],
            as_texts(module.params["parameters"]),
            as_texts(module.params["reload_parameters"]),
            module.check_mode,
        )
    if outcome.reboot_required:
        warner(module)("{}: {}; a reboot brings the new one".format(module.params["name"], outcome.reason))
    module.exit_json(**outcome._asdict(), diff={"before": outcome.before, "after": outcome.after})


def as_texts(parameters: t.Mapping[str, object]) -> t.Dict[str, str]:
    return {key: as_text(value) for key, value in parameters.items()}


def as_text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return str(value)


if __name__ == "__main__":
    main()
