# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent that follows a dockerd of the tests' own, in its namespaces, with a kernel in memory in the module's place.

`Following` starts it as a process and reads what it commits.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import Settings
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

from tests.dockerd import Dockerd
from tests.unit.commit.fake import FakeKernel

TOP = Path(__file__).resolve().parents[1]
Json = t.Dict[str, t.Any]


class Printing(FakeKernel):
    """Says when which endpoints are committed."""

    def commit(self, ruleset: t.Any, *args: t.Any, **words: t.Any) -> int:
        generation = super().commit(ruleset, *args, **words)
        rows = [[row[0].hex(), *row[1:]] for row in (*ruleset.endpoints4, *ruleset.endpoints6)]
        say({"commit": generation, "at": time.clock_gettime(time.CLOCK_MONOTONIC), "endpoints": rows})
        return generation

    def endpoints(self) -> t.List[t.Any]:
        return []


def say(what: Json) -> None:
    print(json.dumps(what), flush=True)


def follow(socket: str, folder: str) -> int:
    """The process: an agent in a thread; the main thread answers questions on its standard input."""
    store = Store(folder + "/etc", folder + "/var", folder + "/lock", folder + "/former")
    kernel = Printing()
    agent = Agent(Settings(docker_socket=socket), store, kernel_factory=lambda: kernel)
    threading.Thread(target=agent._run, daemon=True).start()
    assert agent.ports is not None
    for line in sys.stdin:
        if line.strip() != "facts":
            break
        end = time.monotonic() + 8
        while True:
            time.sleep(0.1)
            kept, fresh = agent.ports.watch._facts, collect_facts(socket)
            if kept == fresh or time.monotonic() > end:
                break
        say({"kept": kept, "fresh": fresh})
    return 0


class Following:
    def __init__(self, dockerd: Dockerd, folder: Path, policy: Json) -> None:
        assert dockerd.process is not None
        for name in ("etc", "var"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Store(str(folder / "etc"), str(folder / "var"), str(folder / "lock")).write_policy(policy)
        argv = [
            "nsenter",
            "-t",
            str(dockerd.process.pid),
            "-n",
            "-m",
            sys.executable,
            "-m",
            "tests.following",
        ]
        self.process = subprocess.Popen(
            [*argv, dockerd.socket, str(folder)],
            cwd=TOP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/.collections"},
        )
        self.commits: t.List[Json] = []
        self.words: t.List[str] = []
        self._answers: queue.SimpleQueue[Json] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._hear, daemon=True).start()
        self.facts()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            what = json.loads(line)
            if "commit" in what:
                self.commits.append(what)
            else:
                self._answers.put(what)

    def _hear(self) -> None:
        self.words.extend(self.process.stderr or ())

    def facts(self) -> t.Tuple[Json, Json]:
        """What the agent has come to know, as soon as it is what asking from scratch tells; and that."""
        assert self.process.stdin is not None
        self.process.stdin.write("facts\n")
        self.process.stdin.flush()
        found = self._answers.get(timeout=30)
        return found["kept"], found["fresh"]

    def until(self, wanted: t.Callable[[Json], bool], seconds: float = 10) -> Json:
        """The first commit that is like that, of all since the start."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for commit in list(self.commits):
                if wanted(commit):
                    return commit
            time.sleep(0.01)
        raise AssertionError("".join(self.words[-5:]) + str(self.commits[-3:]))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


if __name__ == "__main__":
    sys.path.insert(0, str(TOP / ".collections"))
    sys.exit(follow(*sys.argv[1:3]))
