#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Can this host be hardened, and what does it lack
version_added: 0.1.0
description:
  - Looks at the kernel, its headers, module loading, Secure Boot, Docker and the Python libraries, and
    changes nothing.
  - Fails with every problem that stops bridgewarden on this host, each with its location and a hint.
  - Returns the packages to install, so that one package task does it.
  - Needs nothing but Python on the host.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._docker
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
options:
  min_kernel:
    description: The oldest kernel that will do.
    type: str
    default: "5.10"
  need_docker:
    description: Whether it is a problem when dockerd is missing, down, or too old.
    type: bool
    default: true
  need_module:
    description: Whether the kernel module will be built and loaded, so that the kernel and its headers
      matter.
    type: bool
    default: true
  packages:
    description: Further packages of the distribution that the settings ask for.
    type: list
    elements: str
    default: []
  placement:
    description: Where verdicts will be taken. Containers on a macvlan or ipvlan network are judged with V(container) only.
    type: str
    choices: [forward, postrouting, container]
    default: forward
  report_only:
    description: Return the problems instead of failing.
    type: bool
    default: false
  unguarded:
    description: Bridges that will be left alone, as names or patterns.
    type: list
    elements: str
    default: []
seealso:
  - module: bridgewarden.docker.dkms
"""

EXAMPLES = r"""
- name: Look before anything is changed
  bridgewarden.docker.preflight:
  register: preflight

- name: Install what is missing
  ansible.builtin.apt:
    name: "{{ preflight.packages }}"
    update_cache: true
  when: preflight.packages | length > 0
"""

RETURN = r"""
problems:
  description: What stops bridgewarden on this host.
  returned: always
  type: list
  elements: dict
  sample:
    - problem: the kernel takes signed modules only (Secure Boot)
      location: MOK list
      hint: enrol DKMS's key ...
not_covered:
  description:
    - What of Docker's on this host no rule can judge. M(bridgewarden.docker.info) and M(bridgewarden.docker.compliance) return the same.
  returned: always
  type: list
  elements: dict
  sample:
    - what: host network
      name: node-exporter
      why: its packets are the host's own and cross no bridge
      hint: give it a network of its own, or write rules for the host's ports with the class host_ingress
packages:
  description: Packages to install; empty where nothing is missing or the package manager is not apt.
  returned: always
  type: list
  elements: str
  sample: [dkms, linux-headers-cloud-amd64, python3-jmespath]
facts:
  description: What was found.
  returned: always
  type: dict
  contains:
    kernel:
      description: Release of the running kernel.
      type: str
      returned: always
      sample: 6.12.117+deb13-cloud-amd64
    architecture:
      description: Of the machine.
      type: str
      returned: always
      sample: x86_64
    python:
      description: The interpreter that ran this module.
      type: dict
      returned: always
    modules_supported:
      description: Whether the kernel can load modules at all.
      type: bool
      returned: O(need_module=true)
    modules_disabled:
      description: Whether loading was switched off until reboot.
      type: bool
      returned: O(need_module=true)
    secure_boot:
      description: Firmware verification, lockdown, and DKMS's signing key.
      type: dict
      returned: O(need_module=true)
    headers:
      description: Headers of the running kernel, and the packages that give them now and after upgrades.
      type: dict
      returned: O(need_module=true)
    newer_kernels:
      description: Installed kernels of the same flavour that are newer than the running one.
      type: list
      elements: str
      returned: O(need_module=true)
    docker:
      description: The daemon, with null for what could not be found.
      type: dict
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import DOCKER_SOCKET, warner
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.preflight import examine


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **DOCKER_SOCKET,
            "min_kernel": {"type": "str", "default": "5.10"},
            "need_docker": {"type": "bool", "default": True},
            "need_module": {"type": "bool", "default": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "placement": {
                "type": "str",
                "choices": ["forward", "postrouting", "container"],
                "default": "forward",
            },
            "report_only": {"type": "bool", "default": False},
            "unguarded": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    report = examine(
        module.params["docker_socket"],
        module.params["need_docker"],
        module.params["need_module"],
        module.params["min_kernel"],
        module.params["packages"],
        module.params["placement"],
        module.params["unguarded"],
    )
    for warning in report.warnings:
        warner(module)(warning)
    result = {
        "changed": False,
        "facts": report.facts,
        "packages": report.packages,
        "problems": [problem._asdict() for problem in report.problems],
        "not_covered": report.not_covered,
    }
    if report.problems and not module.params["report_only"]:
        module.fail_json(msg="; ".join(problem.text() for problem in report.problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
