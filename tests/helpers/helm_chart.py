"""Render the Helm chart without Helm: the part of its template language that the chart uses, and no more.

`python -m tests.helpers.helm_chart >deploy/kubernetes/syncline.yaml` writes the manifest for use without Helm. An
action that is not known here is an error, so a chart that needs more fails its tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import yaml

__all__ = ["CHART", "MANIFEST", "default_values", "render", "rendered_manifest"]

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "syncline"
MANIFEST: Final = ROOT / "deploy" / "kubernetes" / "syncline.yaml"
ACTION: Final = re.compile(r"(\s*)\{\{(-?)\s*(.*?)\s*(?:-\}\}\s*|\}\})", re.DOTALL)
WORD: Final = re.compile(r'"[^"]*"|\S+')
HEAD: Final = """\
# One cluster of three nodes, for use without Helm. Made of the chart in deploy/helm/syncline with its default values,
# by `make manifest`: change the chart, and not this file.
#
#   syncline secret new --output peer-secret
#   kubectl create secret generic syncline-peer-secret --from-file=peer-secret
#   kubectl apply --filename deploy/kubernetes/syncline.yaml
#
# Clients of other pods have no TLS: SYNCLINE_INSECURE_CLIENTS is true. docs/operations/install.md has the other way.
"""

Values: TypeAlias = Mapping[str, object]
Block: TypeAlias = list["str | Action"]


class Action:
    """One action, and for `if`, `with` and `range` what is inside."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.then: Block = []
        self.otherwise: Block = []


def tokens(source: str) -> Iterator[str | Action]:
    at = 0
    for found in ACTION.finditer(source):
        before, trim, text = found.groups()
        yield source[at : found.start()] + ("" if trim else before)
        yield Action(text)
        at = found.end()
    yield source[at:]


def parse(source: str, templates: dict[str, Block]) -> Block:
    root: Block = []
    stack: list[tuple[Action | None, Block]] = [(None, root)]
    for token in tokens(source):
        word = token.text.split()[0] if isinstance(token, Action) else ""
        owner, block = stack[-1]
        if isinstance(token, str):
            block.append(token)
        elif word == "end":
            stack.pop()
            if owner is not None and owner.text.startswith("define"):
                templates[owner.text.split('"')[1]] = owner.then
        elif word == "else":
            assert owner is not None
            stack[-1] = (owner, owner.otherwise)
        else:
            if word != "define":
                block.append(token)
            if word in {"if", "with", "range", "define"}:
                stack.append((token, token.then))
    assert len(stack) == 1, "an action has no end"
    return root


class Renderer:
    def __init__(self, templates: dict[str, Block], root: Values) -> None:
        self._templates = templates
        self._root = root

    def block(self, block: Block, dot: object, names: dict[str, object]) -> str:
        return "".join(part if isinstance(part, str) else self._action(part, dot, names) for part in block)

    def _action(self, action: Action, dot: object, names: dict[str, object]) -> str:
        word, _, rest = action.text.partition(" ")
        if word == "if":
            chosen = action.then if self._value(rest, dot, names) else action.otherwise
            return self.block(chosen, dot, names)
        if word == "with":
            value = self._value(rest, dot, names)
            return self.block(action.then, value, names) if value else self.block(action.otherwise, dot, names)
        if word == "range":
            key, item, expression = re.fullmatch(r"(\$\w+), (\$\w+) := (.*)", rest).groups()  # type: ignore[union-attr]
            values = self._value(expression, dot, names)
            assert isinstance(values, dict)
            pairs = sorted(values.items())
            return "".join(self.block(action.then, dot, {**names, key: name, item: value}) for name, value in pairs)
        return text_of(self._value(action.text, dot, names))

    def _value(self, expression: str, dot: object, names: dict[str, object]) -> object:
        steps = [WORD.findall(step) for step in expression.split(" | ")]
        value = self._call(steps[0], dot, names)
        for name, *arguments in steps[1:]:
            value = self._call([name, *arguments], dot, names, value)
        return value

    def _call(self, words: list[str], dot: object, names: dict[str, object], *piped: object) -> object:
        name = words[0]
        arguments = [*(self._operand(word, dot, names) for word in words[1:]), *piped]
        match name, arguments:
            case "include", [str(template), value]:
                return self.block(self._templates[template], value, {}).strip("\n")
            case "toYaml", [value]:
                return yaml.safe_dump(value, sort_keys=True, default_flow_style=False).rstrip("\n")
            case "nindent", [int(width), str(text)]:
                return "".join(f"\n{' ' * width}{line}" for line in text.split("\n"))
            case "quote", [value]:
                return '"' + text_of(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
            case "upper", [value]:
                return text_of(value).upper()
            case "default", [fallback, value]:
                return value or fallback
            case "eq", [left, right]:
                return left == right
            case _, []:
                return self._operand(name, dot, names)
        raise AssertionError(f"not known to this renderer: {words}")

    def _operand(self, word: str, dot: object, names: dict[str, object]) -> object:
        if word.startswith('"'):
            return word[1:-1]
        if word.isdigit():
            return int(word)
        if word.startswith("$"):
            return names[word]
        if word == ".":
            return dot
        assert word.startswith("."), f"not known to this renderer: {word}"
        value: object = self._root
        for part in word[1:].split("."):
            assert isinstance(value, Mapping), word
            assert part in value, f"{word} is not in values.yaml"
            value = value[part]
        return value


def text_of(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def default_values() -> dict[str, object]:
    loaded = yaml.safe_load((CHART / "values.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def merged(values: Values, changes: Values) -> dict[str, object]:
    result = dict(values)
    for name, change in changes.items():
        assert name in values, f"values.yaml has no {name}"
        old = values[name]
        is_tree = isinstance(old, Mapping) and old and isinstance(change, Mapping)
        result[name] = merged(old, change) if is_tree else change  # type: ignore[arg-type]
    return result


def render(changes: Values, *, release: str = "syncline", namespace: str = "default") -> dict[str, str]:
    """The templates of the chart with these values, by file name."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    root = {
        "Values": merged(default_values(), changes),
        "Release": {"Name": release, "Namespace": namespace},
        "Chart": {"Name": chart["name"], "AppVersion": chart["appVersion"]},
    }
    templates: dict[str, Block] = {}
    parsed = {path.name: parse(path.read_text(), templates) for path in sorted((CHART / "templates").iterdir())}
    renderer = Renderer(templates, root)
    return {name: renderer.block(block, root, {}) for name, block in parsed.items() if not name.startswith("_")}


def rendered_manifest() -> str:
    """The manifest for use without Helm."""
    files = render({"insecureClients": True})
    parts = [text.strip("\n") for name, text in files.items() if name.endswith(".yaml") and text.strip()]
    return HEAD + "".join(f"---\n{part}\n" for part in parts)


if __name__ == "__main__":
    sys.stdout.write(rendered_manifest())
