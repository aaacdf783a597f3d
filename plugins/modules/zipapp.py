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
  - Packs the collection's library as one executable Python archive and copies it to the host.
  - The archive's bytes depend on the library alone, so the file changes only when the library does.
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
"""

EXAMPLES = r"""
- name: Install the command
  bridgewarden.docker.zipapp:
"""

RETURN = r"""
dest:
  description: Where the command is.
  returned: success
  type: str
  sample: /usr/local/sbin/bridgewarden
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={"dest": {"type": "path", "default": "/usr/local/sbin/bridgewarden"}},
        supports_check_mode=True,
    )
    # The action plugin of the same name does all of it on the controller.
    module.fail_json(msg="zipapp (bridgewarden.docker.zipapp): call the module through its action plugin")


if __name__ == "__main__":
    main()
