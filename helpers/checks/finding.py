"""The findings of a check, as data and as text."""

from collections.abc import Iterator
from dataclasses import dataclass

from helpers.errors import printable, redact

ProbeResult = Iterator[tuple[str, ...]]  # what a probe yields: (state, message) or (state, message, hint)


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "note" (it works, with a limitation) or "problem" (it fails); `hint` says what to do."""

    topic: str
    state: str
    message: str
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("message", "hint"):  # findings are copied into e-mails and logs
            object.__setattr__(self, name, printable(redact(getattr(self, name))))


def format_findings(findings: list[Finding]) -> str:
    """Return a line for each finding, with its hint below it, then the numbers of problems and notes."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:8} {finding.topic:11} {finding.message}")
        if finding.hint:
            lines.append(f"{'':20} → {finding.hint}".replace("\n", f"\n{'':23}"))
    states = [finding.state for finding in findings]
    return "\n".join([*lines, f"Problems: {states.count('problem')}, notes: {states.count('note')}."])
