"""What a person hears of a DynamoCluster: events and log lines, each thing once.

Owns their wording and their bounds. Events are for `kubectl describe`; whoever misses one
finds the same in the status. Forbidden: deciding, and secrets.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dynamo_core.ring import Ring
from dynamo_operator.kube import kinds, names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.errors import KubeError, NamespaceEnding
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.steps import uncounted

log = logging.getLogger(__name__)

NOTE_MAX: Final = 1000  # what an event takes
TOLD_MAX: Final = 256
NORMAL, WARNING = "Normal", "Warning"
SETTLED: Final = ("False", "Settled")


@dataclass(slots=True)
class Teller:
    """Collects what a pass did; `flush` hands it out. Keeps nothing that a decision needs.

    What stays so (`once`) is told when it begins, and again when it has been over in between;
    its counts may change meanwhile. An operator that begins anew tells it again.
    """

    api: Api
    owner: names.Owner
    _waiting: list[tuple[str, str, str]] = field(default_factory=list)
    _standing: set[str] = field(default_factory=set)  # told, as of the last pass
    _now: set[str] = field(default_factory=set)  # so in this pass

    def did(self, reason: str, what: str) -> None:
        """Something that was done just now. reason: one word, for tools."""
        self._say(NORMAL, reason, what)

    def noted(self, what: str) -> None:
        """Upkeep that nobody decides about: for the log alone."""
        log.info("%s/%s: %s", self.owner.namespace, self.owner.name, what)

    def once(self, reason: str, text: str) -> None:
        """Something that stays so: told when it begins."""
        key = f"{reason} {uncounted(text)}"
        if key not in self._standing and key not in self._now:
            self._say(WARNING, reason, text)
        if len(self._now) < TOLD_MAX:
            self._now.add(key)

    def decided(self, what: str, ring: Ring, problems: Sequence[str]) -> None:
        more = f"; {'; '.join(problems)}" if problems else ""
        self._say(NORMAL, "RingDecided", f"epoch {ring.epoch}: {what}{more}")

    def settled(self, ring: Ring) -> None:
        self._say(NORMAL, "RingSettled", f"all data lies where the ring of epoch {ring.epoch} says")

    def refused(self, problems: Iterable[str]) -> None:
        for problem in problems:
            self.once("SpecRefused", problem)

    def plan(self, made: KubePlan) -> None:
        """Refusals, what waits for a person, and warnings: each while it is new."""
        self.refused(str(refused) for refused in made.refusals)
        for halt in made.halts:
            self.once(halt.code, halt.reason)
        for warning in made.warnings:
            self.once(warning.code, warning.reason)

    def completed(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """That nothing is left to do, when the status says so for the first time."""
        was, now_is = _progress(before), _progress(now)
        if now_is == SETTLED and was and was != SETTLED:
            self._say(NORMAL, "Settled", "everything is as the spec says")

    async def flush(self) -> None:
        """Ends a pass. Never raises: an event that can't be written is in the log."""
        self._standing, self._now = self._now, set()
        waiting, self._waiting = self._waiting, []
        for kind, reason, text in waiting:
            try:
                await self.api.create(kinds.EVENT, self._event(kind, reason, text))
            except KubeError as error:
                level = logging.INFO if isinstance(error, NamespaceEnding) else logging.WARNING
                log.log(level, "%s: no event: %s", self.owner.name, error)
                return

    def _say(self, kind: str, reason: str, text: str) -> None:
        level = logging.INFO if kind == NORMAL else logging.WARNING
        log.log(level, "%s/%s: %s", self.owner.namespace, self.owner.name, text)
        self._waiting.append((kind, reason, text))

    def _event(self, kind: str, reason: str, text: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        tag = hashlib.sha256(f"{self.owner.uid}{reason}{text}{now}".encode()).hexdigest()[:16]
        return {
            "metadata": {"name": f"{self.owner.name}.{tag}", "namespace": self.owner.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": kind,
            "reason": reason,
            "action": "Reconcile",
            "note": text[:NOTE_MAX],
            "regarding": {
                "apiVersion": f"{names.GROUP}/{names.VERSION}",
                "kind": "DynamoCluster",
                "name": self.owner.name,
                "namespace": self.owner.namespace,
                "uid": self.owner.uid,
            },
            "reportingController": names.OPERATOR,
            "reportingInstance": names.OPERATOR,
        }


def _progress(status: Mapping[str, Any]) -> tuple[str, str] | None:
    """Status and reason of Progressing; None before there is one."""
    for one in status.get("conditions") or []:
        if one.get("type") == "Progressing":
            return str(one.get("status")), str(one.get("reason"))
    return None
