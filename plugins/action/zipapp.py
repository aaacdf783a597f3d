# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packs the library as the command `bridgewarden` and copies it to the host, with its manual page and completion.

The bytes depend on the library's files alone, so an unchanged library is an
unchanged file on the host.  Runs on the controller, from a checkout as well as
from an installed collection; comparing and copying are left to the module copy.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import typing as t
import zipfile

from ansible.plugins.action import ActionBase
from ansible_collections.bridgewarden.docker.plugins.modules.zipapp import SPEC

PACKAGE = "ansible_collections/bridgewarden/docker/plugins/module_utils"
LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "module_utils")

#: The manual page and the completion, made by tests/usage.py.
MADE = os.path.join(os.path.dirname(os.path.dirname(LIBRARY)), "roles", "agent", "files")

# -I: neither the environment nor root's own packages decide what this command imports.
SHEBANG = b"#!/usr/bin/python3 -I\n"
MAIN = "from {package}._cli.main import main\n\nmain()\n".format(package=PACKAGE.replace("/", "."))

#: What modules share towards Ansible; a host has none.
FOR_ANSIBLE = "_ansible.py"

#: The oldest date a zip can tell.
EPOCH = (1980, 1, 1, 0, 0, 0)


def members(library: str = LIBRARY) -> t.Dict[str, bytes]:
    found = {"__main__.py": MAIN.encode("ascii")}
    parts = PACKAGE.split("/")
    for depth in range(1, len(parts) + 1):
        found["/".join(parts[:depth]) + "/__init__.py"] = b""
    for folder, _folders, names in os.walk(library):
        room = os.path.relpath(folder, library)
        inside = [PACKAGE] if room == "." else [PACKAGE, room]
        for name in names:
            if name.endswith(".py") and name != FOR_ANSIBLE:
                # A zip's folders are packages only with this file.
                found["/".join([*inside, "__init__.py"])] = b""
                with open(os.path.join(folder, name), "rb") as handle:
                    found["/".join([*inside, name])] = handle.read()
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


def made(name: str) -> bytes:
    with open(os.path.join(MADE, name), "rb") as handle:
        return handle.read()


class ActionModule(ActionBase):
    TRANSFERS_FILES = True
    _VALID_ARGS = frozenset(SPEC)

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        dummy, arguments = self.validate_argument_spec(argument_spec=SPEC)
        if arguments["state"] == "absent":
            result.update(self._execute_module(task_vars=task_vars))
            return result
        wanted = {
            arguments["dest"]: (pack(), "0755"),
            arguments["manual"]: (made("bridgewarden.8"), "0644"),
            arguments["completion"]: (made("bridgewarden.bash"), "0644"),
        }
        result.update(changed=False, dest=arguments["dest"])
        there = self._there(list(wanted), task_vars)
        with tempfile.TemporaryDirectory() as folder:
            for dest, (content, mode) in wanted.items():
                if there.get(dest) == (hashlib.sha1(content).hexdigest(), mode):  # noqa: S324
                    continue
                copied = self._copy(folder, dest, content, mode, task_vars)
                if copied.get("failed"):
                    copied.pop("src", None)
                    return {**result, **copied}
                result["changed"] = result["changed"] or copied.get("changed", False)
        return result

    def _there(
        self, paths: t.List[str], task_vars: t.Optional[t.Dict[str, t.Any]]
    ) -> t.Dict[str, t.Tuple[str, str]]:
        """Checksum and mode of those of root's files that are there, by one question about all of them."""
        arguments = {
            "paths": sorted({os.path.dirname(path) for path in paths}),
            "patterns": sorted({os.path.basename(path) for path in paths}),
            "get_checksum": True,
            "checksum_algorithm": "sha1",
        }
        found = self._execute_module("ansible.legacy.find", arguments, task_vars=task_vars)
        return {
            item["path"]: (item.get("checksum"), item["mode"])
            for item in found.get("files", [])
            if item["uid"] == 0 and item["gid"] == 0
        }

    def _copy(
        self,
        folder: str,
        dest: str,
        content: bytes,
        mode: str,
        task_vars: t.Optional[t.Dict[str, t.Any]],
    ) -> t.Dict[str, t.Any]:
        source = os.path.join(folder, os.path.basename(dest))
        with open(source, "wb") as handle:
            handle.write(content)
        task = self._task.copy()
        # A folder as the destination is made where it is missing.
        task.args = {
            "src": source,
            "dest": os.path.join(os.path.dirname(dest), ""),
            "owner": "root",
            "group": "root",
            "mode": mode,
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
        copied: t.Dict[str, t.Any] = copy.run(task_vars=task_vars)
        return copied
