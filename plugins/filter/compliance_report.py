# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filters of playbooks/compliance.yml over plugin_utils/_compliance_report.py."""

from __future__ import annotations

import datetime
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.bridgewarden.docker.plugins.plugin_utils import _compliance_report as report

REGISTERED = "bridgewarden_compliance"


def compliance_report(hosts: t.Any, hostvars: t.Mapping[str, t.Any]) -> report.Report:
    if isinstance(hosts, str) or not isinstance(hosts, t.Sequence):
        raise AnsibleFilterError("compliance_report wants a list of host names")
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return report.merge({host: hostvars[host].get(REGISTERED) for host in hosts}, now)


def compliance_junit(merged: report.Report) -> str:
    return report.junit(merged)


def compliance_summary(merged: report.Report) -> t.List[str]:
    return report.summary(merged)


def open_controls(result: t.Mapping[str, t.Any]) -> t.List[str]:
    return report.open_controls(result)


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        return {
            "compliance_report": compliance_report,
            "compliance_junit": compliance_junit,
            "compliance_summary": compliance_summary,
            "open_controls": open_controls,
        }
