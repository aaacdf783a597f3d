# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter of roles/common over module_utils/_policy/join.py."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible.utils.display import Display
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.join import DEPRECATED, join
from ansible_collections.bridgewarden.docker.plugins.plugin_utils._culprit import culprit


def join_policy(variables: t.Any) -> t.Dict[str, t.Any]:
    if not isinstance(variables, t.Mapping):
        raise AnsibleFilterError("join_policy needs a dictionary of variables by name")
    for name, instead in DEPRECATED.items():
        if name in variables:
            # Ansible shows the same text once a run, whatever the number of hosts and tasks.
            Display().deprecated(
                f"The variable {name} is deprecated: where several groups of a host set it, only one of them counts. "
                f"Name it {instead}: all variables whose names begin with bridgewarden_rules_ are joined.",
                version="1.0.0",
                collection_name="bridgewarden.docker",
            )
    try:
        return join(variables)
    except PolicyError as error:
        raise AnsibleFilterError(error.text(), obj=culprit(variables, error.path)) from None


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"join_policy": join_policy}
