# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules share towards Ansible: pieces of argument specs, and how an error becomes a failure.

The command on a host does without this file: there is no Ansible there.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable

#: For the argument spec of a module that asks dockerd; doc_fragments/_docker.py documents it.
DOCKER_SOCKET: t.Dict[str, t.Dict[str, t.Any]] = {"docker_socket": {"type": "str", "default": DEFAULT_SOCKET}}


@contextlib.contextmanager
def failing(module: AnsibleModule) -> t.Iterator[None]:
    """Turns an error of the collection into the failure of the task."""
    try:
        yield
    except BridgewardenError as error:
        module.fail_json(msg=error.text(), **error.as_result())


def warner(module: AnsibleModule) -> t.Callable[[str], None]:
    """module.warn() for texts with foreign names in them: Ansible sends warnings to the terminal as they are."""
    return lambda text: module.warn(printable(text))


def about_generation(act: t.Callable[[t.Optional[int], bool], t.Dict[str, t.Any]]) -> None:
    """The whole of a module whose one option is the generation: act(generation, check_mode) returns its result."""
    module = AnsibleModule(argument_spec={"generation": {"type": "int"}}, supports_check_mode=True)
    with failing(module):
        module.exit_json(**act(module.params["generation"], module.check_mode))
