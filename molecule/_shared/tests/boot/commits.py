# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the machine: commits one policy after another, each written to the disk, until somebody cuts the power.

    python3 commits.py COMMAND      COMMAND is the installed zipapp, whose library is used

Prints one line for each commit.
"""

import sys

sys.path.insert(0, sys.argv[1])

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import apply_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import CommitOptions, make_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel

store = Store()
policy = store.read_policy()
facts = collect_facts()
options = CommitOptions(on_empty_selector="ignore", force=True)
own = [rule for rule in policy["rules"] if not rule["name"].startswith("more ")]
for number in range(10000):
    # Long enough to take several blocks on the disk; none of it concerns the pairs that the test probes.
    more = [
        {
            "name": f"more {number} {index}",
            "from": [f"192.0.2.{index}/32"],
            "to": ["host"],
            "ports": ["9/tcp"],
        }
        for index in range(number % 200)
    ]
    with Kernel() as kernel:
        result = apply_plan(
            make_plan({**policy, "rules": own + more}, facts, options), kernel, store, options=options
        )
    print(number, result.generation, flush=True)
