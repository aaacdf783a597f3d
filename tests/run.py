#!/usr/bin/env python3
"""Runs the project's checks as named stages, three at a time, and writes one report.

A stage is a command line; its whole output goes to build/test/<stage>.log, its last lines to the terminal when it fails.
Leaves build/test/summary.xml (JUnit, one case a stage) and build/test/summary.json, and says where the time went.
Each stage has a budget: over it the report says so, over twice of it the stage failed (`make test-full` has no budgets).
A stage that ends with 75 met an infrastructure error: a VM died, and not in the module under test, which is a failure. It is run
once more, and the report says so beside its result; what the first run said stays in build/test/<stage>.died.log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "test"
BIN = Path(sys.executable).parent
INFRASTRUCTURE = 75
#: What the lab says of a machine that died (lab/machine.py), whoever's fault it was.
DIED = re.compile(r"(infrastructure error|in the module under test): VM ")
ERRORS = ("fail", "slow", "infrastructure")
#: By how much a stage may exceed its budget before that is a failure; machines are noisy.
OVERRUN = 2
#: In a whole run, twice what the longest stage takes: what hangs must not keep the rest's results from being told.
MOST_SECONDS = 3600
#: One more than CI has cores: a machine waits for half of its time, for a silence or for its own network.
WORKERS = 3
#: What they are worth, in stages that never wait.
PARALLEL = 2.5
#: Set by `make test-full`; scenarios look at it, too.
FULL = bool(os.environ.get("BRIDGEWARDEN_FULL"))
OLDEST, DEFAULT, NEWEST = "bullseye", "trixie", "trixie-backports"
PYTEST = "python -m pytest -q -o junit_family=xunit2"


@dataclass(frozen=True)
class Stage:
    name: str
    command: str
    budget_minutes: float
    group: str = ""
    needs: tuple[str, ...] = ()
    full: bool = False  # by `make test-full` alone, or by its name


def molecule(scenario: str, budget_minutes: float, full: bool = False) -> Stage:
    command = f"tests/tools/molecule.sh {scenario}"
    return Stage(f"molecule-{scenario}", command, budget_minutes, "vm", ("images",), full)


def topologies(target: str, full: bool = False) -> Stage:
    """Of a target that is not `full` the image is there already, and nobody builds its module at the same time."""
    needs = () if full else ("images", "kmod-build")
    return Stage(
        f"topologies-{target}", f"python -m stress.topologies {target}", 11, "topologies", needs, full
    )


#: In the order they are begun: what the rest waits for, what fails fast, and then so that the workers end at about the same time: the
#: longest as soon as there are images, by the worker that made them, and many short ones last. Budgets are about half more than an idle
#: machine takes with an empty cache.
STAGES = (
    Stage("images", f"python -m lab image {OLDEST} {DEFAULT} {NEWEST}", 6, "vm"),
    Stage("ruff", "ruff check . && ruff format --check --diff .", 1, "lint"),
    Stage("mypy", "tests/tools/mypy.sh", 2, "lint"),
    Stage("yamllint", "yamllint --strict .", 1, "lint"),
    Stage("ansible-lint", "ansible-lint --offline --profile production --strict", 2, "lint"),
    Stage("shellcheck", "git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck", 1, "lint"),
    Stage("checkpatch", "tests/tools/checkpatch.sh", 2, "lint"),
    Stage("changelog", "antsibull-changelog lint", 1, "lint"),
    Stage("kmod-order", "python tests/tools/kmod_order.py", 1, "lint"),
    Stage("kmod-doc", "python tests/tools/kmod_doc.py", 1, "lint"),
    Stage("generated", "python tests/usage.py --check && python tests/schema.py --check", 1, "lint"),
    molecule("default", 38),
    molecule("oldest", 25),
    Stage("kmod-build", f"tests/tools/kmod-build.sh {OLDEST} {DEFAULT} {NEWEST}", 2, needs=("images",)),
    topologies(OLDEST),
    topologies(DEFAULT),
    topologies(NEWEST),
    Stage("unit", f"{PYTEST} tests/unit --junit-xml build/test/unit.xml", 5),
    Stage(
        "kmod-user", "make --no-print-directory -C kmod/tests check JUNIT=$PWD/build/test/kmod-user.xml", 3
    ),
    Stage("rollout", f"{PYTEST} tests/rollout --junit-xml build/test/rollout.xml", 5),
    Stage("sanity", "tests/tools/sanity.sh", 5),
    topologies("bookworm", full=True),
    topologies("trixie-rt", full=True),
    topologies("trixie-backports-rt", full=True),
    molecule("newest", 45, full=True),
    molecule("boot", 20, full=True),
    molecule("life", 30, full=True),
    Stage("lab", "python -m lab demo --quiet-exit", 5, "vm", ("images",), full=True),
)


@dataclass
class Result:
    stage: Stage
    status: str  # pass, fail, slow, infrastructure, skipped
    seconds: float
    started: float
    died: bool = False  # the first run met an infrastructure error; this is the second one's

    @property
    def over_budget(self) -> bool:
        return not FULL and self.seconds > 60 * self.stage.budget_minutes

    def judged(self) -> Result:
        """As it is, or slow: it passed, but took more than may be excused."""
        slow = self.over_budget and self.seconds > OVERRUN * 60 * self.stage.budget_minutes
        return replace(self, status="slow") if slow and self.status == "pass" else self


class Runner:
    """WORKERS threads, each of which takes the first stage whose needs have ended."""

    def __init__(self, stages: list[Stage], limit: float | None) -> None:
        self.limit = limit
        self.asked = {stage.name for stage in stages}
        self.waiting = list(stages)
        self.results: dict[str, Result] = {}
        self.change = threading.Condition()
        self.begin = time.monotonic()
        self.running: set[int] = set()  # process groups, which a Ctrl-C does not reach by itself

    def interrupt(self) -> None:
        """Ends what runs and begins nothing more."""
        with self.change:
            self.waiting.clear()
            for group in list(self.running):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGTERM)

    def work(self) -> None:
        while stage := self._next():
            self._finish(self._run(stage))

    def _now(self) -> float:
        return time.monotonic() - self.begin

    def _next(self) -> Stage | None:
        """Blocks until a stage can begin; none is left: None. One whose needs did not pass is skipped."""
        with self.change:
            while self.waiting:
                for stage in self.waiting:
                    if all(name in self.results for name in self._needs(stage)):
                        self.waiting.remove(stage)
                        if all(self.results[name].status == "pass" for name in self._needs(stage)):
                            return stage
                        self.results[stage.name] = Result(stage, "skipped", 0.0, self._now())
                        break
                else:
                    self.change.wait()
            return None

    def _needs(self, stage: Stage) -> list[str]:
        """Those of its needs that were asked for."""
        return [name for name in stage.needs if name in self.asked]

    def _run(self, stage: Stage) -> Result:
        first = self._once(stage)
        if first.status != "infrastructure":
            return first
        self._tell(first)
        log_of(stage).rename(died_log(stage))
        again = self._once(stage)
        return replace(again, died=True)

    def _once(self, stage: Stage) -> Result:
        started = self._now()
        say(f"[{started:5.0f} s] {stage.name} ...")
        with log_of(stage).open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-o", "pipefail", "-c", stage.command],
                cwd=TOP,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.running.add(process.pid)
            try:
                returncode = process.wait(self.limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                returncode = process.wait()
                output.write(f"\nended after {self.limit} s: it hangs\n".encode())
            self.running.discard(process.pid)
        status = {0: "pass", INFRASTRUCTURE: "infrastructure"}.get(returncode, "fail")
        return Result(stage, status, self._now() - started, started).judged()

    def _tell(self, result: Result) -> None:
        log = log_of(result.stage)
        lines = log.read_text(errors="replace").splitlines()
        say(
            f"[{self._now():5.0f} s] {result.stage.name}: {words(result)} in {result.seconds:.0f} s{closing_line(lines)}"
        )
        if result.status in ERRORS:
            say("\n".join(f"    | {line}" for line in lines[-90:]))
            say(f"    (whole output: {log.relative_to(TOP)})")

    def _finish(self, result: Result) -> None:
        self._tell(result)
        with self.change:
            self.results[result.stage.name] = result
            self.change.notify_all()


def log_of(stage: Stage) -> Path:
    return OUT / f"{stage.name}.log"


def died_log(stage: Stage) -> Path:
    """Where the first run's output stays when its machine died."""
    return OUT / f"{stage.name}.died.log"


def words(result: Result) -> str:
    """The result for people."""
    status = {"infrastructure": "infrastructure error", "slow": "too slow"}.get(result.status, result.status)
    budget = f", over its budget of {result.stage.budget_minutes:g} min" * result.over_budget
    return status + budget + " (second run: a machine died in the first)" * result.died


def why(lines: list[str]) -> list[str]:
    """What a person who sees only the end of the output needs: where a machine died its last words, else the log's end."""
    for number, line in enumerate(lines):
        if DIED.search(line):
            return lines[number : number + 60]
    return lines[-40:]


def closing_line(lines: list[str]) -> str:
    """Pytest's own last line, so that the terminal shows how many tests ran."""
    for line in reversed(lines[-200:]):
        if " passed" in line or " failed" in line:
            return "  " + line.strip()
    return ""


_PRINT = threading.Lock()


def say(text: str) -> None:
    with _PRINT:
        print(text, flush=True)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(TOP),
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PY_COLORS": "0",
    }


def report(results: list[Result], total: float) -> None:
    suite = ElementTree.Element(
        "testsuite",
        name="make test",
        tests=str(len(results)),
        failures=str(sum(r.status in ("fail", "slow") for r in results)),
        errors=str(sum(r.status == "infrastructure" for r in results)),
        skipped=str(sum(r.status == "skipped" for r in results)),
        time=f"{total:.1f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname="make-test", name=result.stage.name, time=f"{result.seconds:.1f}"
        )
        if result.died:
            ElementTree.SubElement(
                case, "system-out"
            ).text = f"{words(result)}: build/test/{result.stage.name}.died.log"
        elif result.over_budget:
            ElementTree.SubElement(case, "system-out").text = words(result)
        if result.status != "pass":
            kind = {"infrastructure": "error", "skipped": "skipped"}.get(result.status, "failure")
            message = f"{words(result)}, see build/test/{result.stage.name}.log"
            ElementTree.SubElement(case, kind, message=message)
    ElementTree.ElementTree(suite).write(OUT / "summary.xml", encoding="utf-8", xml_declaration=True)
    rows = [
        {
            "stage": r.stage.name,
            "status": r.status,
            "died_before": r.died,
            "seconds": round(r.seconds, 1),
            "budget_seconds": None if FULL else round(60 * r.stage.budget_minutes),
            "over_budget": r.over_budget,
            "started": round(r.started, 1),
        }
        for r in results
    ]
    (OUT / "summary.json").write_text(
        json.dumps({"seconds": round(total, 1), "stages": rows}, indent=1) + "\n"
    )
    say("\nWhere the time went:")
    for result in sorted(results, key=lambda r: -r.seconds):
        say(f"  {result.seconds:7.0f} s  {words(result):15} {result.stage.name}")
    say(f"  {total:7.0f} s  in all, {WORKERS} at a time")
    for result in results:
        logs = [died_log(result.stage)] * result.died + [log_of(result.stage)] * (result.status in ERRORS)
        for log in logs:
            say(f"\n{result.stage.name}: {words(result)}, {log.relative_to(TOP)}:")
            say("\n".join(f"    | {line}" for line in why(log.read_text(errors="replace").splitlines())))


def select(names: list[str]) -> list[Stage]:
    if names == ["all"]:
        return [stage for stage in STAGES if FULL or not stage.full]
    known = {stage.name for stage in STAGES} | {stage.group for stage in STAGES if stage.group}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such stage: {', '.join(unknown)} (there are: all, {', '.join(sorted(known))})")
    return [stage for stage in STAGES if stage.name in names or stage.group in names]


def main() -> int:
    parser = argparse.ArgumentParser(description="run checks; see make help")
    parser.add_argument("stage", nargs="+", help="stage or group names, or all")
    names = parser.parse_args().stage
    stages = select(names)
    OUT.mkdir(parents=True, exist_ok=True)
    runner = Runner(stages, MOST_SECONDS if names == ["all"] and not FULL else None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    workers = [threading.Thread(target=runner.work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        runner.interrupt()
        return 130
    results = [runner.results[stage.name] for stage in stages]
    report(results, time.monotonic() - runner.begin)
    return 0 if all(result.status == "pass" for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
