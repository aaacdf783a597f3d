# SPDX-License-Identifier: GPL-3.0-or-later
"""What fails a run of the topologies, and what its JUnit file says; from records as stress/guest.py makes them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from stress import __main__ as everything
from stress import guest, topologies

BOOT = {"phase": "boot", "reports": []}
DONE = {"phase": "done"}


def record(*bad: str, **more: Any) -> dict[str, Any]:
    checks = [["test_one", f"check {n}", True] for n in range(6)] + [
        ["test_two", said, False] for said in bad
    ]
    found = {
        "phase": "script", "script": "packets.py", "status": int(bool(bad)), "ok": 6, "not ok": len(bad), "seconds": 1.0,
        "checks": checks, "left out": [], "reports": [],
    }  # fmt: skip
    return {**found, **more}


def test_all_is_well() -> None:
    assert topologies.faults(1, [BOOT, record(), DONE]) == {}


@pytest.mark.parametrize(
    "records, where, words",
    [
        (
            [BOOT, record(**{"left out": ["no netem in this kernel"]}), DONE],
            "packets.py",
            "left out: no netem",
        ),
        ([BOOT, record(reports=["BUG: bad"]), DONE], "packets.py", "the kernel complains: BUG: bad"),
        ([BOOT, record(status=1), DONE], "packets.py", "ended with 1"),
        ([BOOT, record(ok=3, checks=[]), DONE], "packets.py", "only 3 checks"),
        ([BOOT, record()], "machine", "ended early"),
        ([BOOT, DONE], "machine", "ended early"),
        ([], "machine", "ended early"),
        ([{**BOOT, "reports": ["WARNING: x"]}, record(), DONE], "machine", "WARNING: x"),
        ([BOOT, record(), {"phase": "error", "error": "OSError", "where": "there"}], "machine", "OSError"),
    ],
)
def test_what_fails_a_run(records: list[dict[str, Any]], where: str, words: str) -> None:
    found = topologies.faults(1, records)
    assert list(found) == [where]
    assert any(words in one for one in found[where])


def test_junit_has_a_case_a_check(tmp_path: Path) -> None:
    records = [BOOT, record("it leaks"), DONE]
    file = tmp_path / "deep" / "topologies.xml"
    topologies.junit("trixie", records, {"machine": ["ended early"]}, file)
    suite = ElementTree.parse(file).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("8", "2")
    failed = [(c.get("classname"), c.get("name")) for c in suite if c.find("failure") is not None]
    assert failed == [("topologies.trixie.packets", "test_two: it leaks"), ("topologies.trixie", "machine")]


def test_every_script_is_there_and_the_seal_is_last() -> None:
    folder = Path(topologies.__file__).parents[1] / "kmod" / "tests"
    assert all((folder / name).is_file() for name, *_ in topologies.SCRIPTS)
    assert topologies.SCRIPTS[-1][1] == ["seal"]


TAP = """
import sys
print("# test_one")
print("ok 1 - good")
print("not ok 2 - bad # got 1, want 2")
print("# no tc: not tested")
print("# test_two")
print("ok 3 - good again")
print('{"figures": 1}')
sys.exit(1)
"""


def test_the_guest_reads_tap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "made_up.py").write_text(TAP)
    monkeypatch.setattr(guest, "HERE", tmp_path)
    monkeypatch.setattr(guest, "module", lambda *_words, **_more: None)
    found = json.loads(json.dumps(guest.script("made_up.py", [], {}, 60)))
    assert (found["ok"], found["not ok"], found["status"], found["operations"]) == (2, 1, 1, {"figures": 1})
    assert found["left out"] == ["no tc: not tested"]
    assert [check[0] for check in found["checks"]] == ["test_one", "test_one", "test_two"]
    assert [good for *_, good in found["checks"]] == [True, False, True]


def test_floods_are_for_preempt_rt_alone() -> None:
    usual, rt = (topologies.plan([], long=False, rt=rt)["steps"] for rt in (False, True))
    assert {step["script"] for step in rt} - {step["script"] for step in usual} == {"floods.py"}
    assert rt[-1] == usual[-1], "the last one seals the module"


def test_a_script_that_is_not_run_is_no_success(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m stress` with a name that this kernel has no script for."""
    kernel = SimpleNamespace(options={"SMP"}, build=lambda: pytest.fail("it was built"))
    monkeypatch.setattr(everything.diskless, "stock", lambda _target: kernel)
    monkeypatch.setattr("sys.argv", ["stress", "--kernel", "stock", "packets", "floods", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        everything.main()
    assert "floods, nonsense" in capsys.readouterr().err
