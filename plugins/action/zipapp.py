# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packs the library as the command `bridgewarden` and copies it to the host.

The bytes depend on the library's files alone, so an unchanged library is an
unchanged file on the host.  Runs on the controller, from a checkout as well as
from an installed collection; comparing and copying are left to the module copy.
"""

from __future__ import annotations

import io
import os
import tempfile
import typing as t
import zipfile

from ansible.plugins.action import ActionBase

PACKAGE = "ansible_collections/bridgewarden/docker/plugins/module_utils"
LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "module_utils")

# -I: neither the environment nor root's own packages decide what this command imports.
SHEBANG = b"#!/usr/bin/python3 -I\n"
MAIN = "from {package}._cli import main\n\nmain()\n".format(package=PACKAGE.replace("/", "."))

#: What modules share towards Ansible; a host has none.
FOR_ANSIBLE = "_module.py"

#: The oldest date a zip can tell.
EPOCH = (1980, 1, 1, 0, 0, 0)


def members(library: str = LIBRARY) -> t.Dict[str, bytes]:
    found = {"__main__.py": MAIN.encode("ascii")}
    parts = PACKAGE.split("/")
    for depth in range(1, len(parts) + 1):
        found["/".join(parts[:depth]) + "/__init__.py"] = b""
    for name in os.listdir(library):
        if name.startswith("_") and name.endswith(".py") and name != FOR_ANSIBLE:
            with open(os.path.join(library, name), "rb") as handle:
                found[f"{PACKAGE}/{name}"] = handle.read()
    return found


def pack(library: str = LIBRARY) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(members(library).items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            # Not compressed: what zlib makes of it differs with its version.
            archive.writestr(info, content, zipfile.ZIP_STORED)
    return SHEBANG + buffer.getvalue()


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _VALID_ARGS = frozenset({"dest"})

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        dummy, arguments = self.validate_argument_spec(
            argument_spec={"dest": {"type": "path", "default": "/usr/local/sbin/bridgewarden"}}
        )
        handle, path = tempfile.mkstemp(suffix=".pyz")
        try:
            with os.fdopen(handle, "wb") as archive:
                archive.write(pack())
            task = self._task.copy()
            task.args = {
                "src": path,
                "dest": arguments["dest"],
                "owner": "root",
                "group": "root",
                "mode": "0755",
            }
            # A diff of an archive tells nobody anything.
            task.diff = False
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.legacy.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            result.update(copy.run(task_vars=task_vars))
        finally:
            os.unlink(path)
        result.pop("src", None)
        return result
