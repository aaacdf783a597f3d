#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Undo a commit that is not confirmed yet
version_added: 0.1.0
description:
  - Restores the ruleset before the commit whose confirm window is open, now and not only when the window runs out.
  - Changes nothing where no window is open, and says so in RV(undone).
  - A commit that was confirmed stays; apply the former policy to go back to it.
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
      - The generation to undo, as M(bridgewarden.docker.policy) returned it.
      - Fails where this very generation is in force and confirmed already.
    type: int
"""

EXAMPLES = r"""
- name: Apply, look, and go back if something is wrong
  block:
    - name: Commit
      bridgewarden.docker.policy:
        policy: "{{ my_policy }}"
        confirm_timeout: 60

    - name: Look
      ansible.builtin.uri:
        url: http://shop.example.com/
  rescue:
    - name: Go back
      bridgewarden.docker.rollback:

    - name: A rescued host would count as a success
      ansible.builtin.fail:
        msg: The shop was not reachable, the former policy is back.
"""

RETURN = r"""
undone:
  description: Whether a commit was undone, or would be in check mode. V(false) where no confirm window was open.
  returned: success
  type: bool
actions:
  description: What was done, or would be done in check mode, or why nothing was.
  returned: success
  type: list
  elements: str
generation:
  description: The generation in force.
  returned: success
  type: int
"""

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import about_generation
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import roll_back
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import RefusedError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info


def nothing(info: Info, why: str) -> t.Dict[str, t.Any]:
    return {
        "changed": False,
        "undone": False,
        "actions": [f"{why}: generation {info.generation} stays in force"],
        "generation": info.generation,
    }


def rollback(generation: t.Optional[int], check_mode: bool) -> t.Dict[str, t.Any]:
    with Kernel() as kernel:
        info = kernel.info()
        if not info.confirm_remaining:
            if generation is not None and generation == info.generation:
                raise RefusedError(
                    f"generation {generation} is confirmed already",
                    "",
                    "apply the former policy to go back to it",
                )
            return nothing(info, "no commit waits for its confirmation")
        if generation is not None and generation != info.generation:
            return nothing(info, f"generation {generation} is not in force")
        now = info.generation if check_mode else roll_back(kernel, Store(), generation)
        return {
            "changed": True,
            "undone": True,
            "actions": [f"undo the commit of generation {info.generation}"],
            "generation": now,
        }


def main() -> None:
    about_generation(rollback)


if __name__ == "__main__":
    main()
