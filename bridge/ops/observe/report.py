"""An observation for people: as lines of text, and as a page."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from bridge.ops.observe.finding import Finding
from bridge.ops.observe.observation import NOT_LOOKED_AT, Observation

_STYLE: Final = (
    "body{font:16px/1.4 sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
    "th,td{border:1px solid #bbb;padding:.4em .6em;text-align:left;vertical-align:top}"
    ".contradictory,.uncovered{background:#fde8e0}.unknown{color:#666}"
)


def as_text(observation: Observation, name: str) -> Iterator[str]:
    """Yield the lines."""
    yield f"What the PBX {name} does where the vendor's page says nothing"
    if observation.uncovered:
        yield ""
        yield "No word of the pretend PBX says this (please report it):"
        yield from (f"  {told}" for told in observation.uncovered)
    for finding in observation.findings:
        yield ""
        yield f"{finding.unknown}: {finding.question}"
        yield f"    this PBX:   {finding.does}"
        yield f"    how sure:   {finding.how_sure}"
        yield f"    the bridge: {finding.bridge}"
    yield ""
    yield "Not looked at:"
    yield from (f"  {told}" for told in NOT_LOOKED_AT)
    yield ""
    yield "To play it, as far as it was seen:"
    yield f"  {command(observation.words)}"


def command(words: Sequence[str]) -> str:
    """Return the command that plays such a PBX."""
    return " ".join(["account-bridge simulate", *(f"--mode {word}" for word in words)])


def as_html(observation: Observation, name: str) -> str:
    """Return a whole page."""
    title = escape(f"What the PBX {name} does where the vendor's page says nothing")
    uncovered = "".join(f"<li>{escape(told)}</li>" for told in observation.uncovered)
    rows = "".join(_row(finding) for finding in observation.findings)
    not_looked_at = "".join(f"<li>{escape(told)}</li>" for told in NOT_LOOKED_AT)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>"
        + (f'<h2>No word says this</h2><ul class="uncovered">{uncovered}</ul>' if uncovered else "")
        + "<table><tr><th>Open question</th><th>This PBX</th><th>How sure</th><th>What the bridge does</th></tr>"
        + rows
        + f"</table><h2>Not looked at</h2><ul>{not_looked_at}</ul>"
        + f"<h2>To play it</h2><pre>{escape(command(observation.words))}</pre></html>\n"
    )


def _row(finding: Finding) -> str:
    cells = (f"{finding.unknown}: {finding.question}", finding.does, finding.how_sure, finding.bridge)
    return f'<tr class="{finding.sureness}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
