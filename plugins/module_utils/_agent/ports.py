# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When to ask dockerd about what the kernel says of links.

A port of a bridge gets carrier when the container's end is up, with its addresses, before its process runs.
dockerd lists the attachment at that moment or a little later, so its network is asked again every few milliseconds.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import Change
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch

#: Seconds between the first two questions about a port, and the longest time between two.
ASK_AGAIN_SECONDS = 0.003
ASK_AGAIN_MAX_SECONDS = 0.02
#: Seconds after which it is asked about each second only, and after which no more: a list check is due by then.
EARLY_SECONDS, LATE_SECONDS = 0.2, 60.0
#: Seconds that the ports of one container have to go in; its events come in that time, too.
GONE_SECONDS = 0.05


class _Try(t.NamedTuple):
    began: float
    due: float
    pause: float


class PortWatch:
    """What the agent's loop waits for besides Docker's events. For one thread."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._tries: t.Dict[int, _Try] = {}
        self._gone_at: t.Optional[float] = None

    def sockets(self) -> t.List[t.Any]:
        return self.watch.sockets()

    def quiet(self) -> bool:
        """Whether no container is about to run, as far as we know."""
        return all(one.due == float("inf") for one in self._tries.values()) and not self.watch.outstanding()

    def due(self) -> t.Optional[float]:
        """When next() has something even if no socket becomes readable."""
        times = [one.due for one in self._tries.values()]
        if self._gone_at is not None:
            times.append(self._gone_at + GONE_SECONDS)
        return min(times, default=None)

    def next(self, now: float) -> t.Optional[Change]:
        """What to sync now, if anything. Raises BridgewardenError."""
        self.watch.hear()
        waiting = self.watch.waiting
        for port in waiting.keys() - self._tries.keys():
            self._tries[port] = _Try(now, now, ASK_AGAIN_SECONDS)
        for port in self._tries.keys() - waiting.keys():
            del self._tries[port]
        since: t.List[float] = []
        names: t.List[str] = []
        for port, one in self._tries.items():
            if one.due <= now:
                since.append(one.began)
                names.append(waiting[port].name)
                self._tries[port] = _later(one, now)
        if self.watch.answered():
            since.append(self.watch.answered_since(now))
            names.append("dockerd's answer")
        if self._is_settled(now):
            names.append("a port has gone")
        if not names:
            return None
        return Change(f"link: {', '.join(sorted(names))}", "events", since=min(since, default=None))

    def _is_settled(self, now: float) -> bool:
        if not self.watch.stale_networks():
            self._gone_at = None
        elif self._gone_at is None:
            self._gone_at = now
        elif now - self._gone_at >= GONE_SECONDS:
            self._gone_at = None
            return True
        return False


def _later(one: _Try, now: float) -> _Try:
    age = now - one.began
    if age >= LATE_SECONDS:
        return one._replace(due=float("inf"))
    if age >= EARLY_SECONDS:
        return one._replace(due=now + 1.0)
    return one._replace(due=now + one.pause, pause=min(one.pause * 1.5, ASK_AGAIN_MAX_SECONDS))
