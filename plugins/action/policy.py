# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks the policy on the controller, where its files are, before any host is touched.

The error carries the offending value itself: a value that came from a vars file
remembers where, and ansible-core shows file, line and column.
"""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import wanted_policy
from ansible_collections.bridgewarden.docker.plugins.plugin_utils._culprit import culprit


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        self._supports_check_mode = True
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        policy = self._task.args.get("policy")
        if policy is not None:
            self._check(policy, boolean(self._task.args.get("enforce_empty", False), strict=False))
            if self._task.args.get("state") == "checked":
                return dict(result, changed=False, actions=[])
        result.update(self._execute_module(task_vars=task_vars))
        return result

    def _check(self, policy: t.Any, enforce_empty: bool) -> None:
        try:
            wanted_policy(policy, enforce_empty)
        except PolicyError as error:
            raise AnsibleActionFail(error.text(), obj=culprit(policy, error.path)) from None
