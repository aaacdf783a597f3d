# SPDX-License-Identifier: GPL-3.0-or-later
"""A lost or failed host ends the rollout: shown on the real playbook's own skeleton, without a VM.

The play under test is playbooks/harden_docker.yml with its keywords and its gates; only what its roles do is
replaced by a stub that notes the host's name. A host is lost by pointing its connection at a closed port.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import PLAYBOOKS, TOP, ansible_playbook, lost

GATE = PLAYBOOKS / "tasks" / "gate.yml"
HOSTS = [f"h{number:02d}" for number in range(1, 11)]  # default batches: h01, then h02, then the other eight
COMMIT = "Commit the policy"
FIRST_STEP = "Check the host, install what it lacks"
RESULT = "Check the result"

Task = dict[str, Any]


def real_play() -> dict[str, Any]:
    (play,) = yaml.safe_load((PLAYBOOKS / "harden_docker.yml").read_text(encoding="utf-8"))
    return play


def is_gate(task: Task) -> bool:
    return task.get("ansible.builtin.import_tasks") == "tasks/gate.yml"


def stub(name: str) -> Task:
    """Notes that the host came here; loses or fails it where the test says so."""
    return {
        "name": name,
        "ansible.builtin.raw": "echo '{{ inventory_hostname }}/" + name + "' >> {{ log }}"
        "; exit {{ (fails == inventory_hostname and step == '" + name + "') | ternary(1, 0) }}",
        "changed_when": False,
        "vars": {
            "ansible_connection": "{{ (lost == inventory_hostname and step == '"
            + name
            + "') | ternary('ssh', 'local') }}"
        },
    }


def stubbed(task: Task) -> Task:
    """A block stays one, with what fails at the end of its rescue."""
    if "block" in task:
        lists = {
            key: [stubbed(one) for one in task[key]] for key in ("block", "rescue", "always") if key in task
        }
        return {"name": task["name"], **lists}
    return task if "ansible.builtin.fail" in task else stub(task["name"])


def skeleton(*, gates: bool = True) -> dict[str, Any]:
    play = real_play()
    tasks = []
    for task in play["tasks"]:
        if not is_gate(task):
            tasks.append(stubbed(task))
        elif gates:
            tasks.append({"name": task["name"], "ansible.builtin.import_tasks": str(GATE)})
    return {**play, "tasks": tasks}


def step_names(task: Task) -> list[str]:
    """Of what a host comes through if nothing fails."""
    return [name for one in task["block"] for name in step_names(one)] if "block" in task else [task["name"]]


class Rollout:
    """One run of a play over the ten hosts."""

    def __init__(self, folder: Path, play: dict[str, Any], **variables: Any) -> None:
        log = folder / "log"
        log.touch()
        values = {"lost": "", "fails": "", "step": "", "log": str(log), **variables}
        (folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory()), encoding="utf-8")
        done = ansible_playbook(
            *("--inventory", "hosts.yml", "--forks", "10", "--extra-vars", json.dumps(values), "play.yml"),
            cwd=folder,
        )
        self.code, self.output = done.returncode, done.stdout + done.stderr
        self.visits = [tuple(line.split("/", 1)) for line in log.read_text(encoding="utf-8").splitlines()]

    def touched(self) -> set[str]:
        return {host for host, _ in self.visits}

    def reached(self, step: str) -> set[str]:
        return {host for host, at in self.visits if at == step}


def inventory() -> dict[str, Any]:
    return {"docker_hosts": {"hosts": {host: {} for host in HOSTS}, "vars": lost()}}


def test_without_a_loss_every_host_is_done_in_batches(tmp_path: Path) -> None:
    run = Rollout(tmp_path, skeleton())
    assert run.code == 0, run.output
    steps = [name for task in real_play()["tasks"] if not is_gate(task) for name in step_names(task)]
    assert all(run.reached(step) == set(HOSTS) for step in steps)
    finished = [host for host, step in run.visits if step == steps[-1]]
    assert finished[:2] == HOSTS[:2]
    assert len(finished) == len(HOSTS)


@pytest.mark.parametrize("step", [FIRST_STEP, COMMIT, RESULT])
def test_a_host_lost_in_the_second_batch_stops_the_rollout(tmp_path: Path, step: str) -> None:
    run = Rollout(tmp_path, skeleton(), lost="h02", step=step)
    assert run.code != 0
    assert "UNREACHABLE" in run.output
    assert run.reached(step) == {"h01"}
    assert run.touched() <= {"h01", "h02"}, run.output


@pytest.mark.parametrize("step", [FIRST_STEP, COMMIT])
def test_a_host_lost_among_peers_stops_the_later_batches(tmp_path: Path, step: str) -> None:
    """Unlike a batch that is lost whole, which Ansible does stop at."""
    run = Rollout(tmp_path, skeleton(), lost="h03", step=step, bridgewarden_serial=[1, 3, "100%"])
    assert run.code != 0
    assert "The rollout ends here" in run.output
    assert "h03" in run.output.split("The rollout ends here")[0].rsplit("Lost, or stopped", 1)[1]
    assert run.touched() <= set(HOSTS[:4]), run.output


def test_it_is_the_gate_that_stops_it(tmp_path: Path) -> None:
    """The twin without gates: later batches run on, so the tests above test something."""
    run = Rollout(
        tmp_path, skeleton(gates=False), lost="h03", step=COMMIT, bridgewarden_serial=[1, 3, "100%"]
    )
    assert run.code != 0
    assert run.touched() == set(HOSTS), run.output


@pytest.mark.parametrize("step", [FIRST_STEP, COMMIT, RESULT])
def test_a_host_that_fails_among_peers_stops_the_rollout(tmp_path: Path, step: str) -> None:
    run = Rollout(tmp_path, skeleton(), fails="h03", step=step, bridgewarden_serial=[1, 3, "100%"])
    assert run.code != 0
    assert run.touched() == set(HOSTS[:4]), run.output


@pytest.mark.parametrize("how", ["lost", "fails"])
def test_a_bad_canary_is_the_only_host_touched(tmp_path: Path, how: str) -> None:
    run = Rollout(tmp_path, skeleton(), step=COMMIT, **{how: "h01"})
    assert run.code != 0
    assert run.touched() == {"h01"}, run.output


@pytest.mark.parametrize("closing_fail", [True, False], ids=["with fail", "without fail"])
def test_a_rescue_must_end_in_fail(tmp_path: Path, closing_fail: bool) -> None:
    """Why the next test is there: a host that was rescued counts as a success."""
    play = skeleton()
    rescue: list[Task] = [stub("undo")]
    if closing_fail:
        rescue.append({"name": "Say so", "ansible.builtin.fail": {"msg": "rolled back"}})
    play["tasks"] = [
        {**task, "rescue": rescue} if "block" in task and COMMIT in step_names(task) else task
        for task in play["tasks"]
    ]
    run = Rollout(tmp_path, play, fails="h01", step=COMMIT)
    assert run.reached("undo") == {"h01"}
    assert run.touched() == ({"h01"} if closing_fail else set(HOSTS)), run.output


def blocks(tasks: list[Task]) -> Iterator[Task]:
    for task in tasks:
        if "block" in task:
            yield task
            for part in ("block", "rescue", "always"):
                yield from blocks(task.get(part, []))


def task_lists() -> Iterator[tuple[Path, list[Task]]]:
    for path in [*PLAYBOOKS.rglob("*.yml"), *(TOP / "roles").glob("*/tasks/*.yml")]:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        for entry in content:
            for part in ("pre_tasks", "tasks", "post_tasks"):
                yield path, entry.get(part, [])
        yield path, [entry for entry in content if "hosts" not in entry]


def test_no_task_on_the_controller_asks_for_root() -> None:
    """Else a `become` of the configuration or the inventory asks the controller for sudo."""
    found = [
        (path, task)
        for path, tasks in task_lists()
        for task in tasks
        if task.get("delegate_to") == "localhost" or task.get("connection") == "local"
    ]
    assert found
    for path, task in found:
        assert task.get("vars", {}).get("ansible_become") is False, f"{path}: {task['name']}"


def test_every_rescue_of_ours_ends_in_fail() -> None:
    for path, tasks in task_lists():
        for block in blocks(tasks):
            if "rescue" in block:
                assert "ansible.builtin.fail" in block["rescue"][-1], f"{path}: {block.get('name')}"


def test_the_real_play_opens_with_the_gate_and_has_one_after_the_commit() -> None:
    play = real_play()
    (commit,) = [index for index, task in enumerate(play["tasks"]) if COMMIT in step_names(task)]
    gates = [index for index, task in enumerate(play["tasks"]) if is_gate(task)]
    assert gates[0] == 0
    assert any(index > commit for index in gates)
    assert play["any_errors_fatal"] is True
    assert play["max_fail_percentage"] == 0
