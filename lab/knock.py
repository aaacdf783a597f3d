"""`python -m lab.knock < TARGETS`: knocks at TCP services all the time and tells what became of each attempt.

The first line of standard input is JSON: {"tick": seconds, "patience": seconds, "targets": {name: [address, port, N]}}. At
every Nth tick a target gets a new connection attempt, whatever became of the earlier ones. It ends with its input, and
prints {name: {attempts, open, connected, refused, unreachable, silent, first_open, last_open, gap}}; times are seconds
since its start, `gap` the longest time between two ticks.

Open means that a byte came back; a handshake alone (connected) is docker-proxy's.
"""

from __future__ import annotations

import errno
import itertools
import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
_RESULTS = ("open", "connected", "refused", "unreachable", "silent")


@dataclass
class Attempt:
    target: str
    deadline: float
    connected: bool = False


@dataclass
class Knocker:
    targets: dict[str, tuple[str, int, int]]
    patience: float
    start: float = field(default_factory=time.monotonic)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        for name in self.targets:
            self.found[name] = {
                "attempts": 0,
                **dict.fromkeys(_RESULTS, 0),
                "first_open": None,
                "last_open": None,
            }

    def knock(self, tick: int) -> None:
        for name, (address, port, rarely) in self.targets.items():
            if tick % rarely:
                continue
            self.found[name]["attempts"] += 1
            client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            client.setblocking(False)
            error = client.connect_ex((address, port))
            attempt = Attempt(name, time.monotonic() + self.patience)
            if error in (0, errno.EINPROGRESS):
                self.selector.register(client, selectors.EVENT_WRITE, attempt)
            else:
                client.close()
                self._end(attempt, _word(error))

    def listen(self, seconds: float) -> None:
        """Answers until then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                self._answer(key.fileobj, key.data)  # type: ignore[arg-type]

    def _answer(self, client: socket.socket, attempt: Attempt) -> None:
        error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error and not attempt.connected:
            attempt.connected = True
            self.selector.modify(client, selectors.EVENT_READ, attempt)
            return
        word = _word(error) if error else "connected"
        if not error:
            try:
                word = "open" if client.recv(100) else "connected"
            except OSError as trouble:
                word = _word(trouble.errno or 0)
        self._close(client, attempt, word)

    def expire(self, all_of_them: bool = False) -> None:
        now = time.monotonic()
        for key in list(self.selector.get_map().values()):
            if all_of_them or key.data.deadline < now:
                self._close(key.fileobj, key.data, "connected" if key.data.connected else "silent")  # type: ignore[arg-type]

    def _close(self, client: socket.socket, attempt: Attempt, word: str) -> None:
        self.selector.unregister(client)
        client.close()
        self._end(attempt, word)

    def _end(self, attempt: Attempt, word: str) -> None:
        found = self.found[attempt.target]
        found[word] += 1
        if word == "open":
            now = round(time.monotonic() - self.start, 3)
            found["first_open"] = now if found["first_open"] is None else found["first_open"]
            found["last_open"] = now


def _word(error: int) -> str:
    if error in _UNREACHABLE:
        return "unreachable"
    return "silent" if error == errno.ETIMEDOUT else "refused"


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    knocker = Knocker({name: tuple(target) for name, target in asked["targets"].items()}, asked["patience"])
    over = selectors.DefaultSelector()
    over.register(sys.stdin, selectors.EVENT_READ)
    last, gap = time.monotonic(), 0.0
    for tick in itertools.count():
        if over.select(0):
            break
        knocker.knock(tick)
        knocker.listen(asked["tick"])
        knocker.expire()
        gap, last = max(gap, time.monotonic() - last), time.monotonic()
    knocker.listen(asked["patience"])
    knocker.expire(all_of_them=True)
    for found in knocker.found.values():
        found["gap"] = round(gap, 3)
    json.dump(knocker.found, sys.stdout)


if __name__ == "__main__":
    main()
