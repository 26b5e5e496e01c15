"""A finding of a check, and findings as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "note" (works, but know this) or "problem"; `message` is the sentence, `hint` what to do."""

    topic: str
    state: str
    message: str
    hint: str = ""


def format_findings(findings: list[Finding]) -> str:
    """A line per finding, its cure below it where it has one, and the count."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.topic:17} {finding.message}")
        if finding.hint:
            lines.append(f"{'':26} → {finding.hint}".replace("\n", f"\n{'':29}"))
    states = [finding.state for finding in findings]
    return "\n".join([*lines, f"Problems: {states.count('problem')}, notes: {states.count('note')}."])
