"""When a run learned a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text as Line

from nextword.base.text import printable
from nextword.cli import terminal
from nextword.cli.arguments import AsJson, utf8
from nextword.cli.root import app
from nextword.cli.shared import emit

if TYPE_CHECKING:
    from nextword.encode.tokenizer import Tokenizer
    from nextword.trace.text.history import History


@app.command()
def history(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run; RUN@STEP: its history up to there.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text before the token.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, with its space.")],
    heads: Annotated[bool, typer.Option("--heads", help="Score the roles of all heads at every checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """When a run learned a token: its log p at every checkpoint, and what was read when it rose most."""
    from nextword.parameters.run_folder import run_named
    from nextword.trace.text.history import trace_history
    from nextword.trace.text.indexed import open_indexed, training_order

    folder, last = run_named(run)
    order, _ = training_order(folder)
    text = open_indexed(folder, spinner=terminal.spinner)
    tokenizer = text.tokenizer
    ids = tokenizer.encode_prompt(utf8(prompt))
    with terminal.spinner("reading the checkpoints"):
        found = trace_history(
            folder, ids, tokenizer.encode_one(utf8(token)), text, order, roles=heads, begin=tokenizer.bos_id, last=last
        )
    if as_json:
        emit(found.to_json(tokenizer))
    else:
        _print_history(found, tokenizer)


_SHOWN = 5  # sightings: printed


def _print_history(found: History, tokenizer: Tokenizer) -> None:
    console = terminal.output()
    lowest = min(moment.log_probability for moment in found.moments)
    console.print(
        Line(f"{'step':>9}  {'log p':>7}  " + "".join(f"{part:>10}" for part in found.moments[0].parts), "dim")
    )
    for moment in found.moments:
        learned = found.learned is not None and moment.step == found.learned.by
        row = f"{moment.step:9,}  {moment.log_probability:7.2f}  "
        row += "".join(f"{contribution:+10.2f}" for contribution in moment.parts.values())
        length = round(20 * (1 - moment.log_probability / lowest)) if lowest < 0 else 0
        row += "  " + "#" * length + (" <- learned" if learned else "")
        console.print(Line(row, "bold" if learned else ""), soft_wrap=True)
        if moment.roles is not None:
            best = []
            for name in ("previous", "duplicate", "induction", "first"):
                scores = getattr(moment.roles, name)
                layer, head = divmod(int(scores.argmax()), scores.shape[1])
                best.append(f"{name} {layer}.{head} {scores[layer, head]:.2f}")
            console.print(Line(" " * 11 + ", ".join(best), "dim"), soft_wrap=True)
    if found.learned is None:
        print("the run did not learn this token here: its probability never doubled")
        return
    when = f"between steps {found.learned.after:,} and {found.learned.by:,}"
    print(f"learned {when}: log p rose by {found.learned.rise:.2f}, {found.learned.share:.0%} of all its rises")
    if found.read is None:
        print("the prompt's last token and this one were not read side by side then")
        return
    passage = terminal.visible(tokenizer.decode(found.read.passage))
    print(f"read then {found.read.times:,} times: {passage} (it stands in the text {found.read.count:,} times)")
    for sighting in found.read.sightings[:_SHOWN]:
        where = f"  step {sighting.step + 1:,}, {sighting.place.source} line {sighting.place.line}: "
        console.print(Line.assemble((printable(where), "dim"), terminal.visible(sighting.quote)), soft_wrap=True)
