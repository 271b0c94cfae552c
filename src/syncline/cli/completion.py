"""The command `completion`: a script that teaches a shell to complete the lines of `syncline`."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from syncline.cli.output import print_line

__all__ = ["COMPLETE_VARIABLE", "completion"]

COMPLETE_VARIABLE: Final = "_SYNCLINE_COMPLETE"
"""The script sets it: then the command prints what can stand at the cursor, and does nothing else."""

_HOW: Final = {
    "bash": 'in ~/.bashrc: eval "$(syncline completion bash)"',
    "zsh": 'in ~/.zshrc, after compinit: eval "$(syncline completion zsh)"',
    "fish": "in ~/.config/fish/config.fish: syncline completion fish | source",
}

_ADDS: Final = "COMPREPLY+=($value)"
"""What the script for bash does with a candidate."""


@click.command("completion", short_help="Print the script by which a shell completes commands and keys.")
@click.argument("shell", type=click.Choice(list(_HOW)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: of commands, options and keys.

    Load it at each start of the shell: `eval "$(syncline completion bash)"` in ~/.bashrc, the same with zsh in
    ~/.zshrc, or `syncline completion fish | source` in ~/.config/fish/config.fish. Keys are read from the cluster
    that SYNCLINE_ENDPOINTS or --endpoints names.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(click.get_current_context().find_root().command, {}, "syncline", COMPLETE_VARIABLE)
    # Not the class's own `source`: for bash it starts one to ask for its version.
    script = ShellComplete.source(made).strip()
    if shell == "bash":  # the next part of a key follows at once
        script = script.replace(_ADDS, f"{_ADDS}\n            [[ $value == */ ]] && compopt -o nospace 2>/dev/null")
    print_line(f"{script}\n\n# Load it at each start of the shell, {_HOW[shell]}")
