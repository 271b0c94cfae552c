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

_BASH: Final = r"""
_syncline_completion() {
    local IFS=$'\n' rest=${COMP_LINE:0:COMP_POINT} line value quoted piece current
    local -a words=()
    local -i at parts
    # bash ends words at : and = and @, as in a URL or a key: what stands together in the line is one word here.
    for ((at = 0; at <= COMP_CWORD; at++)); do
        piece=${COMP_WORDS[at]}
        if [[ at -eq 0 || $rest == [[:space:]]* || -z $rest ]]; then
            rest=${rest#"${rest%%[![:space:]]*}"}
            words+=("")
        fi
        ((at < COMP_CWORD)) || piece=$rest  # the cursor may stand inside of the word
        words[${#words[@]}-1]+=$piece
        rest=${rest#"$piece"}
    done
    current=${words[${#words[@]}-1]}
    COMPREPLY=()
    while IFS= read -r line; do
        value=${line#*,}
        case ${line%%,*} in
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            plain)
                # A key may hold what bash would run: it is quoted, or left out where a quotation is open that it ends.
                printf -v quoted %q "$value"
                case $current in
                    \'*) [[ $value != *\'* ]] || continue; quoted=$value ;;
                    \"*) [[ $value != *[\$\`\\\"!]* ]] || continue; quoted=$value ;;
                    *[\'\"\`]*) [[ $value == "$quoted" ]] || continue ;;
                esac
                if [[ $current != *[\'\"]* ]]; then  # what stands before the last : is no part of the word for bash
                    piece=${current//[!:=@]/}
                    for ((parts = ${#piece}; parts > 0; parts--)); do quoted=${quoted#*[:=@]}; done
                fi
                COMPREPLY+=("$quoted")
                [[ $value != */ ]] || compopt -o nospace 2>/dev/null
                ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) @VARIABLE@=bash_complete "$1")
}

complete -o nosort -F _syncline_completion syncline
"""
"""In place of click's, which puts keys into the line as they are: `a;reboot` would be run."""

_FISH_SPLIT: Final = 'string split "," $completion'
_FISH_ADDS: Final = "echo $metadata[2]"
"""What the script for fish does with a candidate: a key may hold commas, and begin with a dash."""


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
    if shell == "bash":
        script = _BASH.replace("@VARIABLE@", COMPLETE_VARIABLE).strip()
    else:
        script = ShellComplete.source(made).strip()
        script = script.replace(_FISH_SPLIT, 'string split -m 1 "," -- $completion')
        script = script.replace(_FISH_ADDS, "printf '%s\\n' $metadata[2]")
    print_line(f"{script}\n\n# Load it at each start of the shell, {_HOW[shell]}")
