# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What compliance looks at: the state of one host, each part read once and only when a control asks.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.dkms import Dkms
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import (
    MODULE_NAME,
    KernelModule,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.preflight import REQUIRE_DROP_IN
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import EndpointRow, Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import run
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


class Unjudged(Exception):
    """The control depends on something that is not there."""


@dataclass(frozen=True)
class Wanted:
    """What the inventory says."""

    policy: Json
    version: str
    bridge_scope: str = "auto"
    seal: bool = False
    require: bool = False
    docker_socket: str = DEFAULT_SOCKET

    @property
    def guards(self) -> t.List[str]:
        return list(self.policy.get("guards") or GUARDS)

    @property
    def unguarded(self) -> t.List[str]:
        return list(self.policy.get("unguarded") or ())


class HostState:
    """What is. Everything is read at most once, and a failed reading is an answer too."""

    def __init__(
        self,
        wanted: Wanted,
        store: t.Optional[Store] = None,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
        facts_of: t.Callable[[str], Json] = collect_facts,
        module: t.Optional[KernelModule] = None,
        dkms: t.Optional[Dkms] = None,
        runner: t.Callable[[t.Sequence[str]], t.Tuple[int, str, str]] = run,
        paths: t.Optional[bridge.BridgeFiles] = None,
        docker_bridges: t.Callable[[str], t.Optional[t.Set[str]]] = bridge.ask_docker,
        require_drop_in: str = REQUIRE_DROP_IN,
    ) -> None:
        self.wanted = wanted
        self.store = store or Store()
        self.kernel_factory = kernel_factory
        self.facts_of = facts_of
        self.module = module or KernelModule(MODULE_NAME)
        self.dkms = dkms or Dkms(MODULE_NAME)
        self.runner = runner
        self.paths = paths or bridge.BridgeFiles()
        self.docker_bridges = docker_bridges
        self.require_drop_in = Path(require_drop_in)
        self._answers: t.Dict[str, t.Any] = {}

    def _once(self, name: str, ask: t.Callable[[], t.Any]) -> t.Any:
        if name not in self._answers:
            try:
                self._answers[name] = ask()
            except BridgewardenError as error:
                self._answers[name] = Unjudged(error.text())
        if isinstance(self._answers[name], Unjudged):
            raise self._answers[name]
        return self._answers[name]

    def loaded(self) -> None:
        if self.module.loaded() is None:
            raise Unjudged("the kernel module is not loaded")

    def info(self) -> Info:
        self.loaded()
        return t.cast(Info, self._once("kernel", self._ask_kernel)[0])

    def endpoints(self) -> t.List[EndpointRow]:
        self.loaded()
        return t.cast(t.List[EndpointRow], self._once("kernel", self._ask_kernel)[1])

    def facts(self) -> Json:
        return t.cast(Json, self._once("facts", lambda: self.facts_of(self.wanted.docker_socket)))

    def bridges(self) -> bridge.BridgeOutcome:
        """What the role bridge would do now."""
        return t.cast(
            bridge.BridgeOutcome,
            self._once(
                "bridges",
                lambda: bridge.converge_bridges(
                    "absent" if self.audits() else "present",
                    self.wanted.bridge_scope,
                    self.wanted.guards,
                    bridge.without(self.docker_bridges(self.wanted.docker_socket), self.wanted.unguarded),
                    True,
                    self.paths,
                    self.runner,
                ),
            ),
        )

    def audits(self) -> bool:
        return normalise(self.wanted.policy).mode == "audit"

    def forget(self) -> None:
        """Before a second look at what may have been caught in the middle of a change."""
        self._answers.pop("kernel", None)
        self._answers.pop("facts", None)

    def unit(self, name: str) -> t.Dict[str, str]:
        code, out, err = self.runner(["systemctl", "show", "-p", "ActiveState,UnitFileState,LoadState", name])
        if code != 0:
            raise Unjudged("systemd does not answer: " + " ".join(err.split()))
        pairs = (line.partition("=") for line in out.splitlines())
        return {key: value for key, _equals, value in pairs}

    def _ask_kernel(self) -> t.Tuple[Info, t.List[EndpointRow]]:
        with self.kernel_factory() as kernel:
            return kernel.info(), kernel.endpoints()
