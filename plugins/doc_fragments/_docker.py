# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# PRIVATE to the collection: it may change at any time.

from __future__ import annotations


class ModuleDocFragment:
    # For the modules that ask dockerd; their argument spec takes DOCKER_SOCKET of module_utils/_arguments.py.
    DOCUMENTATION = r"""
options:
  docker_socket:
    description: Docker's socket on the target.
    type: str
    default: unix:///var/run/docker.sock
attributes:
  action_group:
    description: Use C(group/bridgewarden.docker.docker) in C(module_defaults) to set O(docker_socket) for all modules that ask dockerd.
    support: full
    membership:
      - bridgewarden.docker.docker
"""
