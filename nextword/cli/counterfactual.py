"""The effect of a passage: a run is trained again without it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextword.cli import terminal
from nextword.cli.arguments import AsJson, Device, utf8
from nextword.cli.root import app
from nextword.cli.shared import emit
from nextword.cli.train import ended_in_order, show_training

if TYPE_CHECKING:
    from nextword.train.counterfactual import Effect, Estimate


@app.command()
def counterfactual(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    without: Annotated[str, typer.Option(metavar="PASSAGE", help="The words that the new run does not read.")],
    out: Annotated[Path, typer.Option(metavar="NEW", help="The new folder of the run without the passage.")],
    ask: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="PROMPT TOKEN", help="Compare this token's probability after the prompt."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write NEW/tensorboard, too.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """The effect of a passage: train a run again without it, from its last checkpoint before the passage.

    If it was stopped, go on with: nextword train --resume NEW
    """
    if tensorboard:
        from nextword.train.tensorboard import require_tensorboard

        require_tensorboard()
    passage = utf8(without)
    with ended_in_order(out):
        from nextword.encode.tokenizer import Tokenizer
        from nextword.train.counterfactual import effect, estimate, start_without

        tokenizer = Tokenizer.from_folder(run)
        # Encoded first, so that a mistake shows before the training.
        question = ask and (tokenizer.encode_prompt(utf8(ask[0])), tokenizer.encode_one(utf8(ask[1])))
        new, withheld = start_without(run, passage, out, device=device)
        terminal.note(
            f"{passage!r} stands in the text {withheld.count:,} times and was read in {withheld.exposures:,} steps, "
            f"first in step {withheld.first_read + 1:,}; going on without it after step {withheld.resumed_after:,}."
        )
        show_training(new, as_json, tensorboard)
        if question is None or ask is None:
            return
        found, estimated = effect(run, out, *question), estimate(run, out, passage, *question)
    if as_json:
        payload = {**asdict(withheld), "prompt": ask[0], "token": ask[1], **asdict(found), "change": found.change}
        emit({**payload, "estimated": asdict(estimated)})
    else:
        _print_effect(*ask, found, estimated)


def _print_effect(prompt: str, token: str, found: Effect, estimated: Estimate) -> None:
    print(
        f"{token!r} after {prompt!r}: {found.with_passage:.2%} with the passage, "
        f"{found.without_passage:.2%} without; it added {found.change:+.2f} to log p"
    )
    print(
        f"estimated by counting: {estimated.counted_with:.2%} with it, {estimated.counted_without:.2%} without; "
        f"by gradients: larger than the influence of {estimated.below} of {estimated.others} "
        "other passages of its length"
    )
