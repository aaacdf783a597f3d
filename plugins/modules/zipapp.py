#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zipapp
short_description: Installs the command bridgewarden on a host
version_added: 0.1.0
description:
  - Packs the collection's library as one executable Python archive and copies it to the host, with its manual page and its
    completion for bash.
  - The files' bytes depend on the library alone, so they change only when the library does.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - A diff of an archive would tell nobody anything.
  idempotent:
    support: full
  action:
    support: full
options:
  dest:
    description: Where the command goes.
    type: path
    default: /usr/local/sbin/bridgewarden
  manual:
    description: Where the manual page goes.
    type: path
    default: /usr/local/share/man/man8/bridgewarden.8
  completion:
    description: Where the completion goes.
    type: path
    default: /usr/local/share/bash-completion/completions/bridgewarden
  state:
    description: Whether the files are there. With V(absent) the folders of O(manual) and O(completion) go too, if nothing else is in them.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Install the command
  bridgewarden.docker.zipapp:

- name: Remove it
  bridgewarden.docker.zipapp:
    state: absent
"""

RETURN = r"""
dest:
  description: Where the command is.
  returned: success
  type: str
  sample: /usr/local/sbin/bridgewarden
"""

import contextlib
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule

SPEC: t.Dict[str, t.Dict[str, t.Any]] = {
    "dest": {"type": "path", "default": "/usr/local/sbin/bridgewarden"},
    "manual": {"type": "path", "default": "/usr/local/share/man/man8/bridgewarden.8"},
    "completion": {"type": "path", "default": "/usr/local/share/bash-completion/completions/bridgewarden"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    if module.params["state"] == "present":
        # The action plugin of the same name does it from the controller, which has the library.
        module.fail_json(msg="zipapp (bridgewarden.docker.zipapp): call the module through its action plugin")
    files = [module.params[name] for name in ("dest", "manual", "completion")]
    there = [path for path in files if os.path.lexists(path)]
    if not module.check_mode:
        for path in there:
            os.unlink(path)
        for path in files[1:]:
            remove_folders(os.path.dirname(path))
    module.exit_json(changed=bool(there), dest=module.params["dest"])


def remove_folders(folder: str) -> None:
    """The two that installing may have made, as long as they are empty."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
        if os.path.basename(os.path.dirname(folder)) == "bash-completion":
            os.rmdir(os.path.dirname(folder))


if __name__ == "__main__":
    main()
