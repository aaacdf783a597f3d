#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: confirm
short_description: Keep a commit that has a confirm window
version_added: 0.1.0
description:
  - Closes the window that M(bridgewarden.docker.policy) opened with O(bridgewarden.docker.policy#module:confirm_timeout),
    and makes its policy the host's desired one.
  - Fails where the kernel has rolled the commit back in the meantime.
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
    support: partial
    details:
      - With O(generation), a second run changes nothing. Without it, a second run fails, because it cannot tell a
        commit that was confirmed from one that was rolled back.
options:
  generation:
    description:
      - The generation to keep, as M(bridgewarden.docker.policy) returned it.
      - Without it, whatever waits is confirmed.
    type: int
"""

EXAMPLES = r"""
- name: Prove that a new connection gets through
  ansible.builtin.meta: reset_connection

- name: Keep the commit
  bridgewarden.docker.confirm:
    generation: "{{ commit.generation }}"
"""

RETURN = r"""
generation:
  description: The generation in force.
  returned: success
  type: int
"""

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import about_generation
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import confirm_commit
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Stale
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel


def confirm(generation: t.Optional[int], check_mode: bool) -> t.Dict[str, t.Any]:
    with Kernel() as kernel:
        info = kernel.info()
        if generation is not None and info.generation != generation:
            raise Stale(
                f"generation {generation} is not in force any more",
                f"generation {info.generation} is in force",
                "it was rolled back for want of a confirmation, or somebody else has committed; apply the policy again",
            )
        if generation is not None and not info.confirm_remaining:
            return {"changed": False, "generation": info.generation}
        if check_mode:
            return {"changed": bool(info.confirm_remaining), "generation": info.generation}
        return {"changed": True, "generation": confirm_commit(kernel, Store(), generation)}


def main() -> None:
    about_generation(confirm)


if __name__ == "__main__":
    main()
