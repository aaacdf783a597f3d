# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's part of the module dkms: takes the source there in one file.

The archive's bytes depend on the files alone, so equal sources make equal
archives.  Decides nothing: whether the host needs the source, the module finds.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.dkms import BUILD_PRODUCTS, tree_files


def pack(folder: str, exclude: t.Sequence[str] = BUILD_PRODUCTS) -> bytes:
    """A tar of the files in `folder`, with nothing in it of when and by whom it was made."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in tree_files(folder, exclude):
            path = os.path.join(folder, name)
            info = tarfile.TarInfo(name)
            info.size = os.path.getsize(path)
            info.mode = 0o755 if os.stat(path).st_mode & 0o100 else 0o644
            with open(path, "rb") as handle:
                tar.addfile(info, handle)
    return buffer.getvalue()


class ActionModule(ActionBase):
    TRANSFERS_FILES = True

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        source = arguments.get("source")
        try:
            if source is not None and arguments.get("remote_source") is None:
                arguments.pop("source")
                arguments["remote_source"] = self._send(str(source), arguments.get("exclude"))
            result.update(
                self._execute_module(
                    module_name="bridgewarden.docker.dkms", module_args=arguments, task_vars=task_vars
                )
            )
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _send(self, source: str, exclude: t.Union[str, t.Sequence[str], None]) -> str:
        try:
            folder = self._find_needle("files", source)
        except AnsibleError:
            raise AnsibleActionFail(
                f"no folder {source} on the controller: point source at the folder with dkms.conf"
            )
        if not os.path.isfile(os.path.join(folder, "dkms.conf")):
            raise AnsibleActionFail(f"{folder} holds no dkms.conf: point source at the folder that does")
        if isinstance(exclude, str):
            exclude = [part.strip() for part in exclude.split(",")]
        handle, local = tempfile.mkstemp(suffix=".tar")
        try:
            with os.fdopen(handle, "wb") as archive:
                archive.write(pack(folder, BUILD_PRODUCTS if exclude is None else exclude))
            remote: str = self._connection._shell.join_path(self._connection._shell.tmpdir, "source.tar")
            self._transfer_file(local, remote)
        finally:
            os.unlink(local)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        return remote
