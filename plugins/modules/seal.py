#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: seal
short_description: Forbid every change of the policy until the host is rebooted
version_added: 0.2.0
description:
  - After it the kernel module takes no commit and no roll back, from nobody, and cannot be unloaded, until the host is
    rebooted.
  - Containers that start afterwards are not known to the kernel, so their traffic is dropped. What leaves is still
    closed at once.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  generation:
    description:
      - The generation to seal, as M(bridgewarden.docker.policy) returned it. Fails where another one is in force.
      - Without it, whatever is in force is sealed.
    type: int
seealso:
  - module: bridgewarden.docker.confirm
"""

EXAMPLES = r"""
- name: No change until reboot
  bridgewarden.docker.seal:
"""

RETURN = r"""
generation:
  description: The generation in force.
  returned: success
  type: int
"""

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import about_generation
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import seal_policy
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel


def seal(generation: t.Optional[int], check_mode: bool) -> t.Dict[str, t.Any]:
    with Kernel() as kernel:
        info = kernel.info()
        if info.sealed and generation in (None, info.generation):
            return {"changed": False, "generation": info.generation}
        if check_mode:
            return {"changed": True, "generation": info.generation}
        return {"changed": True, "generation": seal_policy(kernel, Store(), generation)}


def main() -> None:
    about_generation(seal)


if __name__ == "__main__":
    main()
