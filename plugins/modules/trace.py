#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: trace
short_description: Records the way of packets through every hook, device and namespace
version_added: 0.1.0
description:
  - Records for a while which netfilter hooks, devices and network namespaces packets cross, what was decided about them and by
    which rule, and says in a sentence what became of each.
  - The kernel's hooks for it are registered only while the trace runs, and are gone with this module's process at the latest.
    While they come and go, packets that wait in an NFQUEUE at that moment are dropped or queued a second time.
  - The filter P(bridgewarden.docker.trace_page#filter) draws what this returns as an HTML page, on the controller.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
  - bridgewarden.docker._docker
options:
  proto:
    description: V(tcp), V(udp), V(icmp), V(icmpv6), V(sctp) or a number. Every protocol where it is not given.
    type: str
    default: ""
  from:
    description: An address or CIDR of one side. Answers are recorded, too.
    type: str
    default: ""
  to:
    description: An address or CIDR of the other side.
    type: str
    default: ""
  port:
    description: The port of either side. V(0) means every port.
    type: int
    default: 0
  container:
    description: A container's name. Its namespace, its addresses and its published ports are traced.
    type: str
    default: ""
  namespace:
    description: V(host), a container's name, a name that C(ip netns) knows, or an inode number.
    type: str
    default: ""
  guard:
    description: The name of a bridge or of another link of the host.
    type: str
    default: ""
  dropped:
    description: Return only packets that were dropped, rejected or lost.
    type: bool
    default: false
  include_session:
    description:
      - Record the SSH session that Ansible itself comes over, too.
      - Without it that session is left out, and RV(summary) says so.
    type: bool
    default: false
    version_added: 0.2.0
  packets:
    description: End after so many packets. V(0) means when the time is up.
    type: int
    default: 0
  seconds:
    description: End after so many seconds, at most 3600.
    type: int
    default: 10
  events:
    description: End after so many events of the kernel; a packet makes two at each hook.
    type: int
    default: 100000
  rate:
    description: Events a second that the kernel writes. What it keeps back is counted in RV(summary).
    type: int
    default: 5000
"""

EXAMPLES = r"""
- name: Where do packets to the published port go
  bridgewarden.docker.trace:
    proto: tcp
    port: 8081
    packets: 20
    seconds: 30
  register: traced

- name: Say it
  ansible.builtin.debug:
    var: traced.words

- name: What is dropped on its way from or to the database
  bridgewarden.docker.trace:
    container: db
    dropped: true
"""

RETURN = r"""
words:
  description: One sentence for each packet.
  returned: success
  type: list
  elements: str
  sample: ['tcp SYN 10.10.10.3:40312 -> 10.10.10.2:8081: delivered to web']
paths:
  description: The packets. The page docs/trace.md has the schema.
  returned: success
  type: list
  elements: dict
  contains:
    sentence:
      description: What became of the packet.
      type: str
    outcome:
      description: V(delivered), V(proxied), V(sent), V(dropped), V(rejected), V(refused), V(queued),
          V(lost) or V(unfinished).
      type: str
    namespaces:
      description: The namespaces it came through.
      type: list
      elements: str
    nat:
      description: Where an address or a port was changed.
      type: list
      elements: dict
    steps:
      description: Its crossings, verdicts and its drop, in time.
      type: list
      elements: dict
summary:
  description: Packets, events, what was kept back or lost, and why the trace ended.
  returned: success
  type: dict
hooks:
  description: For each namespace that packets came through, the functions at its netfilter hooks in the order in which they run.
  returned: success
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import DOCKER_SOCKET, failing
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import TraceOptions
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.session import run_trace


def record(params: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    options = TraceOptions(
        protocol=params["proto"],
        source=params["from"],
        target=params["to"],
        **{name: params[name] for name in TraceOptions._fields if name in params},
    )
    found = run_trace(options)
    found["words"] = ["{detail} {from} -> {to}: {sentence}".format(**path) for path in found["paths"]]
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "proto": {"type": "str", "default": ""},
            "from": {"type": "str", "default": ""},
            "to": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 0},
            "container": {"type": "str", "default": ""},
            "namespace": {"type": "str", "default": ""},
            "guard": {"type": "str", "default": ""},
            "dropped": {"type": "bool", "default": False},
            "include_session": {"type": "bool", "default": False},
            "packets": {"type": "int", "default": 0},
            "seconds": {"type": "int", "default": 10},
            "events": {"type": "int", "default": 100000},
            "rate": {"type": "int", "default": 5000},
            **DOCKER_SOCKET,
        },
        supports_check_mode=True,
    )
    params = module.params
    if sum(bool(params[name]) for name in ("container", "namespace", "guard")) > 1:
        module.fail_json(msg="container, namespace and guard exclude each other: give one of them")
    with failing(module):
        module.exit_json(changed=False, **record(params))


if __name__ == "__main__":
    main()
