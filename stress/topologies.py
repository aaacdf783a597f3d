# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's own topologies on the kernels of the lab's images: `python -m stress.topologies TARGET...`.

The scripts of kmod/tests, whose namespaces stand for containers, in a machine without a disk and without dockerd. Leaves
build/test/topologies-TARGET.xml (JUnit, one case a check). What fails a run: a check that failed, one that a script left out ("# no
..."), a script that checked next to nothing, and any complaint of the kernel. Lengths are those of `make test`; --long takes those of
`make test-full`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lab.errors import LabError
from lab.paths import CHECKOUT
from lab.progress import say
from stress import diskless

OUT = CHECKOUT / "build" / "test"
#: What is given to scripts, short and long. The last one seals the module, which nothing undoes.
SCRIPTS: tuple[tuple[str, list[str], list[str]], ...] = (
    ("packets.py", [], []),
    ("inside.py", [], []),
    ("bareports.py", [], []),
    ("neighbours.py", [], []),
    ("routed.py", [], []),
    ("unmanaged.py", [], []),
    ("links.py", [], []),
    ("pickedup.py", [], []),
    ("crossings.py", [], ["--each"]),
    ("audit.py", [], []),
    ("loading.py", ["--no-faults"], ["--no-faults"]),
    ("contexts.py", [], []),
    ("traces.py", [], []),
    ("fuzz_netlink.py", ["--seconds", "4", "--seed", "6"], ["--seconds", "60", "--seed", "6"]),
    ("packets.py", ["seal"], ["seal"]),
)
#: Of the long form, or asked for by name: it waits, and what it shows is the same on every kernel.
LONG_SCRIPTS: tuple[tuple[str, list[str], list[str]], ...] = (("suspend.py", [], []),)
#: For kernels with PREEMPT_RT alone, where hooks interrupt each other.
RT_SCRIPTS = (("floods.py", ["--seconds", "10"], ["--seconds", "60"]),)
SHORT = {"BW_WAIT": "0.5", "BW_SWAPS": "40", "BW_STRESS": "3", "BW_FLOOD": "2"}
LONG = {"BW_WAIT": "1.5", "BW_SWAPS": "100", "BW_STRESS": "60", "BW_FLOOD": "10"}
#: Seconds after which a script hangs.
LIMIT = 900
#: A script with fewer checks did not do its work.
FEWEST = 5


def plan(only: list[str], long: bool, rt: bool = False) -> dict[str, Any]:
    steps = [
        {"script": name, "arguments": most if long else least, "limit": LIMIT}
        for name, least, most in (
            *(RT_SCRIPTS if rt else ()),
            *(LONG_SCRIPTS if long or only else ()),
            *SCRIPTS,
        )
        if not only or name.removesuffix(".py") in only
    ]
    return {"steps": steps, "environment": LONG if long else SHORT, "modules": diskless.MODULES}


def faults(steps: int, records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What went wrong beside failed checks, by script; "machine" is the machine itself."""
    found: dict[str, list[str]] = {}
    for one in diskless.scripts(records):
        words = [f"left out: {line}" for line in one["left out"]]
        words += [f"the kernel complains: {report}" for report in one["reports"]]
        if one["status"] and not one["not ok"]:
            words.append(f"it ended with {one['status']}")
        if one["ok"] + one["not ok"] < FEWEST:
            words.append(f"only {one['ok'] + one['not ok']} checks")
        found[one["script"]] = words
    machine = [
        f"the kernel complains: {report}"
        for one in records
        if one["phase"] == "boot"
        for report in one["reports"]
    ]
    machine += [f"{one['error']}\n{one['where']}" for one in records if one["phase"] == "error"]
    if not diskless.complete(records) or len(diskless.scripts(records)) != steps:
        machine.append("the machine ended early")
    found["machine"] = machine
    return {script: words for script, words in found.items() if words}


def junit(target: str, records: list[dict[str, Any]], wrong: dict[str, list[str]], file: Path) -> None:
    """One case a check, and one for each script or machine with something wrong besides."""
    suite = ElementTree.Element("testsuite", name=f"topologies {target}")
    failures = 0
    for one in diskless.scripts(records):
        name = f"topologies.{target}.{one['script'].partition('.py')[0]}"
        for group, said, good in one["checks"]:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=f"{group}: {said}")
            if not good:
                failures += 1
                ElementTree.SubElement(case, "failure", message=said)
    for script, words in wrong.items():
        case = ElementTree.SubElement(suite, "testcase", classname=f"topologies.{target}", name=script)
        ElementTree.SubElement(case, "failure", message="\n".join(words))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures + len(wrong)))
    file.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)


def topologies(target: str, only: list[str], long: bool, build: bool) -> bool:
    """Whether all is well."""
    kernel = diskless.stock(target)
    if build:
        kernel.build()
    made = plan(only, long, "PREEMPT_RT" in kernel.options)
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / f"topologies-{target}-console.log").open("w", encoding="utf-8") as log:
        records = diskless.run(kernel, made, log)
    wrong = faults(len(made["steps"]), records)
    junit(target, records, wrong, OUT / f"topologies-{target}.xml")
    failed = [
        f"{one['script']}: {group}: {said}"
        for one in diskless.scripts(records)
        for group, said, good in one["checks"]
        if not good
    ]
    failed += [f"{script}: {words}" for script, each in wrong.items() for words in each]
    for words in failed:
        say(f"{target}: {words}")
    passed = sum(one["ok"] for one in diskless.scripts(records))
    say(f"topologies {target}, Linux {kernel.version}: {passed} passed, {len(failed)} failed")
    return not failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stress.topologies", description=__doc__)
    parser.add_argument("--long", action="store_true", default=bool(os.environ.get("BRIDGEWARDEN_FULL")))
    parser.add_argument("--no-build", action="store_true", help="use the module of the last build")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SCRIPT", help="of kmod/tests, without .py"
    )
    parser.add_argument("target", nargs="+", help="a target or kernel of lab/targets.yml; one after another")
    args = parser.parse_args()
    if unknown := set(args.only) - {
        name.removesuffix(".py") for name, *_ in (*RT_SCRIPTS, *LONG_SCRIPTS, *SCRIPTS)
    }:
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    results = [topologies(target, args.only, args.long, not args.no_build) for target in args.target]
    return 0 if all(results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        say(str(error))
        sys.exit(error.exit_code)
