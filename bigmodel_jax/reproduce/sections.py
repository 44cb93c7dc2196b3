"""What a comparison of two runs found: sections of findings, each of which says for what it speaks."""

from typing import Any, NamedTuple

# For what a finding speaks: for one of the verdicts ...
EXPERIMENT, DATA, CODE, ROUNDING = 'experiment', 'data', 'code', 'rounding'
# ... for another evaluation alone; for nothing, as it cannot change a number; or it is what came of the others.
EVALUATION, NOTHING, RESULT = 'evaluation', 'nothing', 'result'
CAUSES = (EXPERIMENT, DATA, CODE, ROUNDING)
LONGEST = 160  # Characters of a value that are shown.


class Finding(NamedTuple):
    """One thing in which two runs differ."""

    what: str  # 'optimizer.eps', 'jax', 'loss', 'blocks.layers.ffn.up[0]'.
    text: str  # '1e-08 -> 1e-06'.
    speaks_for: str
    step: int = 0  # Of a cause: it acts from this step on; of a result: where it was seen. 0: before the first.
    lines: tuple[str, ...] = ()  # That are shown below it, such as those of a file that differ.

    def __str__(self) -> str:
        return f'{self.what}: {self.text}' if self.what else self.text


class Section(NamedTuple):
    """One kind of thing that was compared."""

    title: str
    findings: tuple[Finding, ...]
    otherwise: str  # What was compared, or why nothing was; shown where there are no findings.
    compared: bool = True

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        findings = [finding._asdict() for finding in self.findings]
        return {'compared': self.compared, 'about': self.otherwise, 'findings': findings}


def change(left: Any, right: Any) -> str:
    """'left -> right'; what is long is cut."""
    return f'{short(left)} -> {short(right)}'


def short(value: Any) -> str:
    """A value on one line."""
    text = str(value)
    return text if len(text) <= LONGEST else f'{text[: LONGEST - 4]} ...'


def listed(names: list[str], most: int = 4) -> str:
    """'a, b, c and 3 more'."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def counted(count: int, noun: str) -> str:
    """'1 step', '1,000 steps'."""
    return f'{count:,} {noun}{"" if count == 1 else "s"}'
