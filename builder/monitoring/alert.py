"""An alert: when it fires, for whom, and what a person does then. Its text is the rule's, and the runbook's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["page", "ticket", "info", "none"]  # wakes somebody, waits for the morning, for the week, for nobody
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alerting rule of Prometheus's and vmalert's. `tolerance` is its `for`, `lasting` its `keep_firing_for`.

    `summary` and `action` are templates of the rules' (`{{ $labels.node }}`); `meaning` is for the runbook alone.
    """

    name: str
    severity: Severity
    expr: str
    summary: str
    meaning: str
    action: str
    tolerance: str = ""
    lasting: str = ""

    def rule(self, cluster: str, runbooks: str) -> dict[str, object]:
        """Return the rule, as it stands in a file of rules. `runbooks` is the address of the page with all of them."""
        times = {"for": self.tolerance, "keep_firing_for": self.lasting}
        return {
            "alert": self.name,
            "expr": self.expr,
            **{key: value for key, value in times.items() if value},
            "labels": {"severity": self.severity, "cluster": cluster},
            "annotations": {
                "summary": self.summary,
                "action": self.action,
                "runbook": f"{runbooks}#{self.name.lower()}",
            },
        }

    def runbook(self) -> str:
        """Return the section of the runbook, in which labels are words: NODE, SITE."""
        action = _LABEL.sub(lambda found: found[1].upper(), self.action)
        after = f", after {self.tolerance}" if self.tolerance else ""
        return f"## {self.name}\n\n{self.severity}{after}. {self.meaning}\n\n**Do:** {action}\n"
