# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter of playbooks/trace.yml over plugin_utils/_trace_page.py."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.plugin_utils import _trace_page


def trace_page(record: t.Any, title: str = "bridgewarden trace") -> str:
    try:
        return _trace_page.trace_page(record, str(title))
    except BridgewardenError as error:
        raise AnsibleFilterError(error.text()) from None


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {"trace_page": trace_page}
