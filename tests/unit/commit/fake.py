# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel in memory with the verbs of `_netlink.Kernel`: generations, compare and swap, one window."""

from __future__ import annotations

import errno
import ipaddress
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    REASON_MAX,
    REASON_WORDS,
    Action,
    DirectionClass,
    Kind,
    Mode,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Busy, KernelError, Stale
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel, kernel_error
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    Explanation,
    Info,
    PrefixRow,
    RuleRow,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, Judge


class FakeKernel(Kernel):
    def __init__(self) -> None:
        super().__init__()
        self.ruleset: t.Optional[Ruleset] = None
        self.generation = 0
        self.last = 0
        self.before: t.Optional[t.Tuple[t.Optional[Ruleset], int]] = None  # of an open window
        self.remaining = 0
        self.sealed = False
        self.commits = 0
        self.dry_runs = 0
        self.returned = 0  # endpoints that it closed and would open again
        self.meanwhile: t.List[t.Callable[[], None]] = []  # run at the next commits
        self.addresses: t.Set[str] = set()  # the host's own

    def open(self) -> None:
        pass

    def info(self) -> Info:
        ruleset = self.ruleset
        return Info(
            version="0.1.0",
            generation=self.generation,
            mode=Mode(ruleset.mode if ruleset else 0).name.lower(),
            defaults={},
            policy_digest=ruleset.policy_digest.hex() if ruleset else "",
            ruleset_digest=ruleset.digest().hex() if ruleset else "",
            confirm_remaining=self.remaining,
            guards=ruleset.guards if ruleset else (),
            guard_links=(),
            counts={
                "endpoints": len(ruleset.endpoints4) if ruleset else 0,
                "prefixes": len(ruleset.prefixes4) + len(ruleset.prefixes6) if ruleset else 0,
            },
            hooks_first=1,
            hooks_expected=1,
            sealed=self.sealed,
            returned=self.returned,
        )

    def commit(
        self,
        ruleset: Ruleset,
        expect: t.Optional[int] = None,
        dry_run: bool = False,
        confirm_timeout: int = 0,
    ) -> int:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if expect != self.generation:
            raise Stale("another generation is in force", errno=errno.ESTALE)
        if self.before is not None:
            raise Busy("a commit waits for its confirmation", errno=errno.EBUSY)
        self._check_prefixes(ruleset)
        if dry_run:
            self.dry_runs += 1
            return self.generation
        if confirm_timeout:
            self.before, self.remaining = (self.ruleset, self.generation), confirm_timeout
        self.last += 1
        self.commits += 1
        self.returned = 0
        self.ruleset, self.generation = ruleset, self.last
        return self.generation

    def _check_prefixes(self, ruleset: Ruleset) -> None:
        for name, rows in (("prefix4", ruleset.prefixes4), ("prefix6", ruleset.prefixes6)):
            for entry, row in enumerate(rows):
                prefix = ipaddress.ip_network((row[0], row[1]))
                if any(ipaddress.ip_address(own) in prefix for own in self.addresses):
                    words = f"{name}[{entry}]: has an address of this host"
                    raise kernel_error(errno.EADDRINUSE, words, "committing the ruleset")

    def confirm(self, generation: t.Optional[int] = None) -> int:
        self._window(generation)
        self.before, self.remaining = None, 0
        return self.generation

    def rollback(self, generation: t.Optional[int] = None) -> int:
        self._window(generation)
        assert self.before is not None
        self.ruleset, self.generation = self.before
        self.before, self.remaining = None, 0
        return self.generation

    def seal(self, generation: t.Optional[int] = None) -> int:
        if self.before is not None:
            raise Busy("a commit waits for its confirmation", errno=errno.EBUSY)
        if not self.generation:
            raise KernelError("no ruleset is in force", errno=errno.ENOENT)
        if generation not in (None, self.generation):
            raise Stale("another generation is in force", errno=errno.ESTALE)
        self.sealed = True
        return self.generation

    def _window(self, generation: t.Optional[int]) -> None:
        if self.before is None:
            raise KernelError("no commit waits for its confirmation", errno=errno.ENOENT)
        if generation not in (None, self.generation):
            raise Stale("another generation is in force", errno=errno.ESTALE)

    def prefixes(self) -> t.List[PrefixRow]:
        assert self.ruleset is not None
        behind = self.ruleset.behind
        return [
            PrefixRow(
                str(ipaddress.ip_network((row[0], row[1]))),
                row[2],
                row[3],
                tuple((link, port) for number, link, port in behind if number == row[3]),
            )
            for row in (*self.ruleset.prefixes4, *self.ruleset.prefixes6)
        ]

    def rules(self) -> t.List[RuleRow]:
        rules = self.ruleset.rules if self.ruleset else []
        return [
            RuleRow(REASON_MAX + i, row[0], row[6].decode(), Action(row[1]).name.lower(), 0, 0)
            for i, row in enumerate(rules)
        ]

    def explain(
        self,
        from_addr: str,
        to_addr: str,
        proto: int,
        port: int = 0,
        from_kind: Kind = Kind.WORLD,
        to_kind: Kind = Kind.GUARDED,
        direct: bool = False,
    ) -> Explanation:
        assert self.ruleset is not None
        judge = Judge(self.ruleset)
        found = judge.decide(Connection(from_addr, to_addr, proto, port, from_kind, to_kind, direct))
        name = (
            self.ruleset.rule_name(found.index - REASON_MAX)
            if found.index >= REASON_MAX
            else REASON_WORDS[found.index]
        )
        assert DirectionClass[found.direction_class.upper()] is not None
        return Explanation(
            found.action,
            found.direction_class,
            found.index,
            name,
            judge.identity(from_addr, from_kind),
            judge.identity(to_addr, to_kind),
            self.generation,
        )
