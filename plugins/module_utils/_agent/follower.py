# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step of the agent: bring the kernel in step with the policy and Docker.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import typing as t
from types import MappingProxyType

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import docker_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import apply_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Stale
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


class Change(t.NamedTuple):
    """Why to sync, and what to ask dockerd about for it."""

    reason: str
    scope: str = (
        "all"  # everything anew; "list": what dockerd's list shows changed; "events": what is named here
    )
    containers: t.FrozenSet[str] = frozenset()
    networks: bool = False
    since: t.Optional[float] = None  # when the oldest of the events happened, by the monotonic clock


class Synced(t.NamedTuple):
    changed: bool
    generation: int
    endpoints: int
    actions: t.List[str]
    warnings: t.List[str]
    info: Info
    planned: int = 0  # endpoints that should be in force
    stuck: t.Mapping[str, str] = MappingProxyType({})  # Watch.stuck
    #: Published ports whose docker-proxy keeps connections it took before the ports were known.
    proxy_ports: t.Tuple[int, ...] = ()


class NothingNew(Exception):
    """What happened changes nothing for us."""


class Follower:
    """Brings the kernel in step with the policy and Docker, and keeps what Docker said for the next time."""

    # A container that is gone must not stop the others from being kept in step, and whether the policy may
    # cut somebody off was decided when it was applied.
    OPTIONS = CommitOptions(on_empty_selector="ignore", force=True, adopt=False)
    #: Seconds that docker-proxy has to close the clients it took before its port was known.
    PROXY_CLOSE_SECONDS = 1.0

    def __init__(
        self,
        store: Store,
        watch: Watch,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
    ) -> None:
        self.store = store
        self.watch = watch
        self.kernel_factory = kernel_factory
        self._last: t.Optional[t.Tuple[Json, Synced]] = None
        self._known: t.Optional[t.Set[docker_proxy.Place]] = (
            None  # the endpoints in force, as far as we have put them there
        )

    def __call__(self, change: Change) -> t.Optional[Synced]:
        """None where there is no policy yet."""
        last, self._last = self._last, None
        known, self._known = self._known, None
        scopes = [change.scope]
        proxy_ports: t.Tuple[int, ...] = ()

        def replan(policy: Json) -> Plan:
            nonlocal proxy_ports
            # A second time: the kernel has moved on since the facts were collected, so none of them is trusted.
            facts = self._facts(change, scopes.pop() if scopes else "all")
            if (
                last is not None
                and change.scope == "events"
                and facts is last[0]
                and not kernel.info().returned
            ):
                raise NothingNew
            plan = make_plan(policy, facts, self.OPTIONS)
            proxy_ports = self._commit_ports_first(kernel, plan, known)
            return plan

        try:
            with self.kernel_factory() as kernel:
                result = apply_facts(kernel, self.store, replan, self.OPTIONS)
                if result is None:
                    return None
                info = kernel.info()
        except NothingNew:
            self._last, self._known = last, known
            return last[1]._replace(changed=False, actions=[], stuck=dict(self.watch.stuck)) if last else None
        synced = Synced(
            result.changed,
            info.generation,
            info.counts.get("endpoints", 0),
            result.actions,
            result.plan.warnings if result.plan else [],
            info,
            endpoints_of(result.plan),
            dict(self.watch.stuck),
            proxy_ports,
        )
        if result.plan is not None:
            self._last = result.plan.facts, synced
            self._known = docker_proxy.endpoint_places(result.plan.ruleset)
        return synced

    def _commit_ports_first(
        self, kernel: Kernel, plan: Plan, known: t.Optional[t.Set[docker_proxy.Place]]
    ) -> t.Tuple[int, ...]:
        """Commits new ports of docker-proxy's before their containers; those that it keeps clients of all the same."""
        if (plan.facts.get("docker") or {}).get("userland_proxy") is False or not plan.ruleset.publish:
            return ()
        if known is None:
            known = {
                (ipaddress.ip_address(row.address).packed, row.link, row.port) for row in kernel.endpoints()
            }
        listeners = docker_proxy.newly_published(plan.ruleset, known)
        if not listeners:
            return ()
        info = kernel.info()
        if info.sealed or info.mode != "enforce" or plan.policy["mode"] != "enforce":
            return ()
        if not info.guards:
            return ()  # whoever is connected got there by right
        try:
            kernel.commit(
                docker_proxy.without_endpoints(plan.ruleset, set(listeners.values())), info.generation
            )
        except Stale:
            return ()  # the commit of the whole plan will see the same
        if docker_proxy.wait_until_empty(listeners, self.PROXY_CLOSE_SECONDS):
            return ()
        return tuple(sorted({port for _protocol, port, _address in listeners}))

    def _facts(self, change: Change, scope: str) -> Json:
        if scope == "all":
            self.watch.forget()
        return self.watch.facts(change.containers if scope == "events" else None, change.networks)


def endpoints_of(plan: t.Optional[Plan]) -> int:
    return len(plan.ruleset.endpoints4) + len(plan.ruleset.endpoints6) if plan else 0


def sync_once(store: Store, docker_socket: str = DEFAULT_SOCKET) -> t.Optional[Synced]:
    """Once, for the command."""
    watch = Watch(docker_socket)
    synced = Follower(store, watch)(Change("asked to"))
    return synced and synced._replace(warnings=[*synced.warnings, *watch.warnings()])
