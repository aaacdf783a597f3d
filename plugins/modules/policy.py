#!/usr/bin/python
# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: policy
short_description: Resolve and commit the network policy of a Docker host
version_added: 0.1.0
description:
  - Resolves the policy against the containers that run on the host, compiles it and commits it to the kernel module
    C(bridgewarden), as one exchange that no packet sees half of.
  - The policy is checked on the controller first. What is wrong is reported with its file and line, and no host is
    touched.
  - Changes nothing where the kernel has exactly this policy, resolved to exactly these containers, already.
author:
  - The bridgewarden developers (@bridgewarden)
extends_documentation_fragment:
  - bridgewarden.docker._attributes
  - bridgewarden.docker._attributes.action
  - bridgewarden.docker._docker
attributes:
  action:
    support: full
  check_mode:
    support: full
    details:
      - With the module loaded the kernel itself verifies the ruleset in a dry run. Without it the policy is resolved
        and compiled only.
  diff_mode:
    support: full
    details:
      - Shows the effective rules as sentences.
  idempotent:
    support: full
options:
  policy:
    description:
      - The policy. V(mode) is required, what else is left out keeps its default.
      - Required unless O(state=absent).
    type: dict
    suboptions:
      mode:
        description:
          - V(enforce) or V(audit). V(audit) judges, counts and logs, but drops nothing. There is no default.
        type: raw
      placement:
        description:
          - Where verdicts are taken. V(forward) (the default) is the FORWARD hook, V(postrouting) the POST_ROUTING hook, and
            V(container) the containers' own namespaces. Traffic to the host is judged at LOCAL_IN in the first two.
        type: raw
      log_group:
        description: The nfnetlink_log group that log lines go to. Default V(0).
        type: raw
      log_defaults:
        description: Whether packets that are dropped without a rule are logged, too. Default V(false).
        type: raw
      defaults:
        description:
          - The verdict (V(allow), V(deny) or V(reject)) of each direction class where no rule matches.
          - The classes are V(ingress), V(egress), V(inter_container), V(to_host), V(from_host) and V(host_ingress).
        type: raw
      groups:
        description:
          - Names for peers, as a dictionary. A group has either V(cidrs) and perhaps V(except), or one or more of
            V(labels), V(names), V(networks) and V(query), which must all hold.
          - V(cidrs) mean addresses outside. In a rule that denies or rejects they mean any holder of the address, a container or the
            host too.
        type: raw
      rules:
        description:
          - The rules, a list. Each has V(name), V(from) and V(to), and may have V(action), V(ports) or V(published),
            V(direct), V(log), V(queue), V(within), V(until) and V(note).
          - Their order does not matter. The most restrictive matching rule wins, deny before reject before queue before allow.
        type: raw
      guards:
        description:
          - Patterns of link names whose traffic is judged. The default matches Docker's own bridges. Bridges of Docker
            with other names are added by themselves.
        type: raw
      unguarded:
        description: Names, or patterns of names, of bridges of Docker that are left out. What is behind them counts as outside.
        type: raw
      lifelines:
        description:
          - Connections that a commit must leave open, a list. Each has V(name) and V(ports), and may have V(from), by default the clients
            of the open SSH sessions, and V(to), by default the host.
          - In mode V(enforce) a commit that would deny one of them is refused unless O(force=true).
        type: raw
  state:
    description:
      - V(applied) commits the policy and makes it the host's desired one, which the agent keeps in step.
      - V(rendered) resolves it, returns what it means on this host, and touches nothing. Needs no kernel module.
      - V(checked) looks for mistakes in it, on the controller alone. The host is not asked anything.
      - V(absent) empties the kernel's ruleset and removes the host's policy files.
    type: str
    choices: [applied, rendered, checked, absent]
    default: applied
  on_empty_selector:
    description: What to do about a selector that matches no container on this host, or a port nobody publishes.
    type: str
    choices: [warn, fail, ignore]
    default: warn
  enforce_empty:
    description: Accept a policy in mode V(enforce) that has no rule. With the defaults it closes every published port.
    type: bool
    default: false
  confirm_timeout:
    description:
      - Seconds after which the kernel restores the ruleset before this one, unless M(bridgewarden.docker.confirm) comes
        first. Nothing on the host has to survive for that.
      - V(0) keeps the commit at once.
      - No window is opened where nothing changes.
    type: int
    default: 0
  force:
    description:
      - Commit although the policy would lock people out of the host.
      - Without it the module refuses a guard that matches a link with a default route, or one over which an SSH session runs.
      - In mode V(enforce) it also refuses a policy that does not allow each open SSH session to the host, and, where there is
        no session, a policy that lets nobody outside reach a port that sshd listens on.
      - This does not depend on the connection that Ansible uses, and holds in check mode.
    type: bool
    default: false
requirements:
  - python3-jmespath, where a group has a query
seealso:
  - module: bridgewarden.docker.confirm
  - module: bridgewarden.docker.rollback
  - module: bridgewarden.docker.info
"""

EXAMPLES = r"""
- name: Apply the policy, to be confirmed within a minute
  bridgewarden.docker.policy:
    policy:
      mode: enforce
      groups:
        office: {cidrs: [10.10.10.0/24, "2001:db8:10::/64"]}
        web: {labels: {tier: web}}
      rules:
        - name: office reaches the web shop
          from: [office]
          to: [web]
          ports: [8080/tcp]
    confirm_timeout: 60
  register: commit

- name: Close the connection, so that the next task proves that a new one gets through
  ansible.builtin.meta: reset_connection

- name: Keep it
  bridgewarden.docker.confirm:
    generation: "{{ commit.generation }}"

- name: What would it mean on this host
  bridgewarden.docker.policy:
    policy: "{{ my_policy }}"
    state: rendered
  register: rendered

- name: Judge nothing any more
  bridgewarden.docker.policy:
    state: absent
"""

RETURN = r"""
generation:
  description: The generation of the ruleset in force after the task. In check mode, the one before.
  returned: when O(state) is V(applied) or V(absent)
  type: int
  sample: 7
confirm_timeout:
  description: Seconds of the confirm window that is open now. V(0) where none is.
  returned: when O(state) is V(applied) or V(absent)
  type: int
  sample: 60
policy_digest:
  description: SHA-256 of the policy in its normal form. It does not depend on the order of lists.
  returned: when O(state) is V(applied) or V(rendered)
  type: str
ruleset_digest:
  description: SHA-256 of the compiled ruleset.
  returned: when O(state) is V(applied) or V(rendered)
  type: str
effective:
  description: What the policy means on this host now, one sentence each.
  returned: when O(state) is V(applied) or V(rendered)
  type: list
  elements: str
  sample: ["allow office reaches the web shop: 10.10.10.0/24 -> web(172.18.0.2) 8080/tcp"]
rules:
  description: The effective rules as data.
  returned: when O(state) is V(applied) or V(rendered)
  type: list
  elements: dict
actions:
  description: What was done, or would be done in check mode, in plain words.
  returned: always
  type: list
  elements: str
policy_warnings:
  description: What the policy says in vain on this host. Shown as warnings too.
  returned: when O(state) is V(applied) or V(rendered)
  type: list
  elements: str
formerly:
  description:
    - The containers that an allow of a CIDR covered when a CIDR still meant whoever has the address, up to version 0.1.
    - Shown as warnings until the policy has been applied.
  returned: when O(state) is V(applied) or V(rendered)
  type: list
  elements: dict
  contains:
    rule:
      description: The rule's name.
      type: str
    key:
      description: V(from) or V(to).
      type: str
    peer:
      description: The CIDR or group in it.
      type: str
    containers:
      description: The containers, with their addresses.
      type: list
      elements: str
    write:
      description: What to add where these containers are meant.
      type: list
      elements: str
error_kind:
  description: One word for scripts.
  returned: on failure
  type: str
  sample: refused
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._ansible import (
    DOCKER_SOCKET,
    failing,
    warner,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import (
    CIDRS_MEAN,
    CommitResult,
    apply_plan,
    remove_policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    former_texts,
    host_clock,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import ModuleMissing
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import POLICY_KEYS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import wanted_policy


def argument_spec() -> t.Dict[str, t.Any]:
    # What the policy may say is checked by the library, with better words; its types are open here.
    return {
        "policy": {"type": "dict", "options": {key: {"type": "raw"} for key in POLICY_KEYS}},
        "state": {
            "type": "str",
            "choices": ["applied", "rendered", "checked", "absent"],
            "default": "applied",
        },
        "on_empty_selector": {"type": "str", "choices": ["warn", "fail", "ignore"], "default": "warn"},
        "enforce_empty": {"type": "bool", "default": False},
        "confirm_timeout": {"type": "int", "default": 0},
        "force": {"type": "bool", "default": False},
        **DOCKER_SOCKET,
    }


def kernel_or_none(needed: bool) -> t.Optional[Kernel]:
    kernel = Kernel()
    try:
        kernel.open()
    except ModuleMissing:
        if needed:
            raise
        return None
    return kernel


def wanted(params: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
    """The policy without the keys that Ansible has filled in. Normally the action plugin has checked it already."""
    policy = {key: value for key, value in params["policy"].items() if value is not None}
    wanted_policy(policy, params["enforce_empty"])
    return policy


def commit_options(module: AnsibleModule) -> CommitOptions:
    return CommitOptions(
        module.params["on_empty_selector"],
        module.params["force"],
        clock=host_clock(Store().read_applied_or_none()),
    )


def meant_before(plan: Plan) -> bool:
    """Whether this very policy has been applied with the meaning that CIDRs have now: then nothing is new about it."""
    applied = Store().read_applied_or_none() or {}
    return applied.get("cidrs") == CIDRS_MEAN and applied.get("policy_digest") == plan.policy_digest


def warn_of(module: AnsibleModule, plan: Plan, known: bool) -> None:
    for text in [*plan.warnings, *([] if known else former_texts(plan))]:
        warner(module)(text)


def described(plan: Plan) -> t.Dict[str, t.Any]:
    return {
        "policy_digest": plan.policy_digest,
        "ruleset_digest": plan.ruleset_digest,
        "effective": plan.words,
        "rules": plan.effective,
        "policy_warnings": plan.warnings,
        "formerly": plan.formerly,
    }


def facts(module: AnsibleModule) -> t.Dict[str, t.Any]:
    return collect_facts(module.params["docker_socket"], warn=warner(module))


def rendered(module: AnsibleModule) -> t.Dict[str, t.Any]:
    options = commit_options(module)
    plan = make_plan(wanted(module.params), facts(module), options)
    warn_of(module, plan, meant_before(plan))
    return dict(described(plan), changed=False, actions=[])


def applied(module: AnsibleModule) -> t.Dict[str, t.Any]:
    options = commit_options(module)

    def plan() -> Plan:
        return make_plan(wanted(module.params), facts(module), options)

    kernel = kernel_or_none(needed=not module.check_mode)
    try:
        # Before the facts: what the agent commits after this is newer than they are.
        since = kernel.info().generation if kernel is not None else None
        first = plan()
        again = meant_before(first)
        result = apply_plan(
            first, kernel, Store(), module.check_mode, module.params["confirm_timeout"], plan, options, since
        )
    finally:
        if kernel is not None:
            kernel.close()
    last = result.plan or first
    warn_of(module, last, again)
    return dict(described(last), **outcome(result))


def checked(module: AnsibleModule) -> t.Dict[str, t.Any]:
    wanted(module.params)
    return {"changed": False, "actions": []}


def absent(module: AnsibleModule) -> t.Dict[str, t.Any]:
    kernel = kernel_or_none(needed=False)
    try:
        return outcome(remove_policy(kernel, Store(), module.check_mode))
    finally:
        if kernel is not None:
            kernel.close()


def outcome(result: CommitResult) -> t.Dict[str, t.Any]:
    return {
        "changed": result.changed,
        "generation": result.generation,
        "confirm_timeout": result.confirm_timeout,
        "actions": result.actions,
        "diff": result.diff,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=argument_spec(),
        supports_check_mode=True,
        required_if=[("state", state, ["policy"]) for state in ("applied", "rendered", "checked")],
    )
    run = {"applied": applied, "rendered": rendered, "checked": checked, "absent": absent}[
        module.params["state"]
    ]
    with failing(module):
        module.exit_json(**run(module))


if __name__ == "__main__":
    main()
