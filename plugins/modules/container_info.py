#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container_info
short_description: Containers, networks and links of a Docker host in one call
version_added: 0.1.0
description:
  - Returns every container and network that Docker knows, with the address, the bridge and the bridge port
    (veth) of each
    container on each network, and its published ports.
  - One call for the whole host, however many containers it runs.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.info_module
  - bridgewarden.docker._docker
options:
  timeout:
    description: Seconds that dockerd may take for one answer.
    type: int
    default: 30
notes:
  - The facts are returned as the task's result and not as C(ansible_facts), because containers come and go
    and
    a cached address would be a wrong address.
  - Needs no permission to enter the containers' namespaces.
"""

EXAMPLES = r"""
- name: What runs here, and behind which link
  bridgewarden.docker.container_info:
  register: shop

- name: Which bridge port belongs to the container web
  ansible.builtin.debug:
    msg: "{{ (shop.containers | selectattr('Name', 'equalto', 'web') | first).Networks }}"
"""

RETURN = r"""
docker:
  description: The daemon.
  returned: success
  type: dict
  sample: {version: 26.1.5, userland_proxy: true}
containers:
  description:
    - All containers, stopped ones included, sorted by name.
    - Addresses are null where there are none. Only running or paused containers have links, ports and
      addresses. One whose network is up counts as running, although its process may be about to begin.
  returned: success
  type: list
  elements: dict
  sample:
    - Id: 930efabfd8eca706687775ce6804546b08e66999f301b11ffbef5f7f43f5d766
      Name: web
      Image: shop-web:1
      State: running
      Pid: 4711
      NetworkMode: front
      Labels: {tier: web}
      Networks:
        front:
          NetworkID: cb1e1b687f74184c1716aea854b1a7d546b494e621abba7a47644b2522fe7a7e
          IPAddress: 172.18.0.2
          GlobalIPv6Address: null
          MacAddress: 02:42:ac:12:00:02
          Link: br-cb1e1b687f74
          LinkIndex: 3
          Port: veth4bbef38
          PortIndex: 7
      Ports:
        - {HostIp: 0.0.0.0, HostPort: 8081, ContainerPort: 8080, Protocol: tcp}
attachments:
  description:
    - What Docker has attached to networks and is no container of its API, sorted by name. C(Kind) is C(build) for a step of
      BuildKit's, C(mesh) for Swarm's routing mesh. C(Networks) as for containers.
  returned: success
  type: list
  elements: dict
  sample: []
networks:
  description: All networks of Docker, sorted by name.
  returned: success
  type: list
  elements: dict
  sample:
    - Id: cb1e1b687f74184c1716aea854b1a7d546b494e621abba7a47644b2522fe7a7e
      Name: front
      Driver: bridge
      Internal: false
      EnableIPv6: false
      Subnets: [172.18.0.0/16]
      Bridge: br-cb1e1b687f74
      BridgeIndex: 3
      Labels: {}
links:
  description: Every bridge of the host, Docker's or not, by name.
  returned: success
  type: dict
  sample: {docker0: {index: 2, bridge: true}}
default_route_links:
  description: The links that carry a default route, IPv4 or IPv6.
  returned: success
  type: list
  elements: str
  sample: [eth0]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import (
    DOCKER_SOCKET,
    failing,
    warner,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_TIMEOUT
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **DOCKER_SOCKET,
            "timeout": {"type": "int", "default": int(DEFAULT_TIMEOUT)},
        },
        supports_check_mode=True,
    )
    with failing(module):
        facts = collect_facts(module.params["docker_socket"], module.params["timeout"], warner(module))
    module.exit_json(changed=False, **facts)


if __name__ == "__main__":
    main()
