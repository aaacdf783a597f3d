#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: dkms
short_description: State of a DKMS module
version_added: 0.1.0
description:
  - Adds, builds, installs and removes a kernel module that DKMS looks after. Works for any DKMS module.
  - A source that differs from the one on the host is put in place and built anew, also when its version is
    the same.
  - Other versions are removed only after the wanted one is installed, and not where a kernel would be left
    without any.
  - When a build fails, what was installed stays installed and the former source is put back.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.action
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - Not with O(force=true).
  action:
    support: full
options:
  name:
    description: The module's C(PACKAGE_NAME).
    type: str
    required: true
  version:
    description:
      - The module's C(PACKAGE_VERSION).
      - Required unless O(state=absent), which without it removes all versions.
    type: str
  state:
    description:
      - V(added) knows the source, V(built) has compiled it, V(installed) has put it where the kernel finds
        it.
      - V(absent) takes it away for all kernels, with its source in C(/usr/src).
    type: str
    choices: [absent, added, built, installed]
    default: installed
  source:
    description:
      - Folder on the controller that holds C(dkms.conf). It is copied to C(/usr/src/NAME-VERSION).
      - Without O(source) and O(remote_source), the source that is there is used.
    type: path
  remote_source:
    description: The same, on the target. A folder, or a tar archive of one.
    type: path
  exclude:
    description: Names (patterns) that are no part of the source.
    type: list
    elements: str
    default:
      ["*.o", "*.ko", "*.mod", "*.mod.c", "*.cmd", "*.order", "*.symvers", .tmp_versions, __pycache__, .git]
  kernel:
    description: Release of the kernel to build for. The running one by default.
    type: str
  remove_other_versions:
    description: With O(state=installed), remove the other versions of the module from DKMS.
    type: bool
    default: true
  force:
    description: Build and install anew although all is there.
    type: bool
    default: false
notes:
  - DKMS 3 signs what it builds. Under Secure Boot its key has to be enrolled before the kernel loads the
    module.
seealso:
  - module: bridgewarden.docker.kernel_module
  - module: bridgewarden.docker.preflight
"""

EXAMPLES = r"""
- name: Install the module for the running kernel
  bridgewarden.docker.dkms:
    name: bridgewarden
    version: 0.1.0
    source: "{{ role_path }}/../../kmod"

- name: Take it away
  bridgewarden.docker.dkms:
    name: bridgewarden
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in plain words.
  returned: success
  type: list
  elements: str
  sample: [placed source /usr/src/bridgewarden-0.1.0, added bridgewarden 0.1.0 to dkms]
before:
  description: Versions that DKMS knew, with the kernels they were built or installed for.
  returned: success
  type: dict
  sample: {}
after:
  description: The same afterwards.
  returned: success
  type: dict
  sample: {"0.1.0": {6.12.117+deb13-cloud-amd64: installed}}
kernel:
  description: The kernel that it was about.
  returned: success
  type: str
  sample: 6.12.117+deb13-cloud-amd64
make_log:
  description: The end of the compiler's output, or of what dkms said.
  returned: when dkms failed
  type: list
  elements: str
"""

import os
import tempfile
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import failing, warner
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.dkms import (
    BUILD_PRODUCTS,
    Desired,
    Dkms,
    DkmsError,
    converge_dkms,
    unpack,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable


def source_folder(module: AnsibleModule, scratch: str) -> t.Optional[str]:
    path: t.Optional[str] = module.params["remote_source"]
    if path is None:
        return None
    if os.path.isdir(path):
        return path
    if not os.path.isfile(path):
        raise DkmsError("no such folder or archive", path, "give remote_source as a path on the target")
    unpack(path, scratch)
    return scratch


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str"},
            "state": {
                "type": "str",
                "choices": ["absent", "added", "built", "installed"],
                "default": "installed",
            },
            "source": {"type": "path"},
            "remote_source": {"type": "path"},
            "exclude": {"type": "list", "elements": "str", "default": list(BUILD_PRODUCTS)},
            "kernel": {"type": "str"},
            "remove_other_versions": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("source", "remote_source")],
        required_if=[("state", state, ["version"]) for state in ("added", "built", "installed")],
        supports_check_mode=True,
    )
    kernel = module.params["kernel"] or os.uname().release
    with failing(module), tempfile.TemporaryDirectory(dir=module.tmpdir) as scratch:
        if module.params["source"] is not None:
            raise DkmsError(
                "source is a folder of the controller", "dkms", "call the module through its action plugin"
            )
        outcome = converge_dkms(
            Dkms(module.params["name"]),
            Desired(
                state=module.params["state"],
                version=module.params["version"],
                kernel=kernel,
                source=source_folder(module, scratch),
                remove_other_versions=module.params["remove_other_versions"],
                force=module.params["force"],
                exclude=module.params["exclude"],
            ),
            module.check_mode,
        )
    for warning in outcome.warnings:
        warner(module)(warning)
    module.exit_json(
        changed=outcome.changed,
        actions=outcome.actions,
        before=outcome.before,
        after=outcome.after,
        kernel=kernel,
        diff={"before": text(outcome.before), "after": text(outcome.after)},
    )


def text(summary: t.Mapping[str, t.Mapping[str, str]]) -> str:
    lines = []
    for version, kernels in sorted(summary.items()):
        lines.append(f"{version}: added")
        lines += [f"{version}, {kernel}: {state}" for kernel, state in sorted(kernels.items())]
    return "".join(printable(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
