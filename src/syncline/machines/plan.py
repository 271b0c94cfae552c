"""What a machine's class declares: its state, its commands and its queries. Made and checked when the class is made."""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any, Final, get_type_hints

from syncline.errors import ConfigError
from syncline.machines.commands import LINK, CommandMethod, MachineMethod
from syncline.machines.declared import Declared
from syncline.machines.fields import StateField, is_class_variable
from syncline.machines.signature import Signature

__all__ = ["DECLARED", "Plan", "plan_of"]

DECLARED: Final = "_declared"
"""The attribute of a machine that holds its replicated list of commands."""

OWN: Final = frozenset({LINK, DECLARED})
LARGEST_DIGEST_VERSION: Final = 65_535


class Plan:
    """The declarations of one class."""

    def __init__(
        self, kind: type, name: str, fields: list[StateField], operations: list[MachineMethod[Any, ..., object]]
    ) -> None:
        self.kind: str = kind.__name__
        self.name = name
        self.fields = fields
        self.operations: dict[str, MachineMethod[Any, ..., object]] = {
            operation.name: operation for operation in operations
        }
        commands = [operation for operation in operations if isinstance(operation, CommandMethod)]
        self.commands: dict[str, CommandMethod[Any, ..., object]] = {command.name: command for command in commands}
        for command in commands:
            for old in command.was:
                if old in self.operations or old in self.commands:
                    raise ConfigError(
                        f'{self.kind}.{command.name} was "{old}", which is also the name of another method'
                    )
                self.commands[old] = command
        self.removed: dict[str, int] = {}
        self.dropped: frozenset[str] = frozenset()
        self.version: int = 1
        """The machine version of the class, once it is known."""
        self.size: int = len(fields) + 1
        """Attributes of a machine: its fields, and its list of commands."""

    @property
    def newest(self) -> int:
        """The highest version that a command asks for."""
        return max((command.since for command in self.commands.values()), default=1)

    def digest_version(self, machine_version: int) -> int:
        """Differs where equal histories may give other states: after an upgrade that adds a field."""
        text = f"{self.name} {machine_version} {[field.name for field in self.fields]}"
        return zlib.crc32(text.encode()) % LARGEST_DIGEST_VERSION + 1

    def proposed_as(self, command: CommandMethod[Any, ..., object], version: int) -> str:
        """The name under which all members of a cluster at this version know the command; empty: there is none."""
        if version >= command.since:
            return command.name
        return command.was[-1] if command.was else ""

    def declared(self, version: int) -> Declared:
        """What may be proposed in a cluster at this version."""
        names = {self.proposed_as(command, version): command.since for command in self.commands.values()}
        return Declared(self.name, {name: since for name, since in sorted(names.items()) if name})


def plan_of(
    kind: type, base: type, name: str, removed: Mapping[str, int] | None, dropped: Iterable[str], frame: int
) -> Plan:
    """Read the declarations of a class. `frame` counts the callers up to the place where the class is made.

    Raises:
        ConfigError: a declaration can't be used; the text names the field, method or parameter.
    """
    if "__init__" in vars(kind) or "__slots__" in vars(kind) or "__setattr__" in vars(kind):
        raise ConfigError(
            f"{kind.__name__}: declare the state by annotations, such as `count: int`, without __init__,"
            " __slots__ and __setattr__"
        )
    names = {**_names_around(frame + 1), **vars(kind)}
    taken = {public for public in dir(base) if not public.startswith("__")} | OWN
    bases = [one for one in reversed(kind.__mro__) if one is not base and issubclass(one, base)]
    fields: dict[str, StateField] = {}
    operations: dict[str, MachineMethod[Any, ..., object]] = {}
    for one in bases:
        for field in _fields(one, names, taken):
            fields[field.name] = field
        for attribute, value in vars(one).items():
            if isinstance(value, MachineMethod):
                if attribute in taken:
                    raise ConfigError(f"{one.__name__}.{attribute}: Machine has a method of this name; choose another")
                _sign(one, value, names)
                operations[attribute] = value
            elif attribute in operations and attribute in vars(one):
                raise ConfigError(f"{one.__name__}.{attribute} takes the place of a command or query: decorate it, too")
    plan = Plan(kind, name or kind.__name__, list(fields.values()), list(operations.values()))
    plan.removed = _checked_removed(kind, removed or {}, plan)
    plan.dropped = frozenset(dropped)
    for field_name in plan.dropped & fields.keys():
        raise ConfigError(f"{kind.__name__}.{field_name} is declared, and dropped: it can't be both")
    return plan


def _fields(kind: type, names: Mapping[str, object], taken: set[str]) -> list[StateField]:
    """The fields that a class itself declares. Their defaults move from the class to the plan."""
    known: dict[str, StateField] | None = kind.__dict__.get("_fields_declared")
    if known is not None:
        return list(known.values())
    found: dict[str, StateField] = {}
    for attribute, hint in _hints(kind, kind.__name__, names).items():
        where = f"{kind.__name__}.{attribute}"
        if attribute not in inspect.get_annotations(kind) or is_class_variable(hint):
            continue
        if attribute in taken:
            raise ConfigError(f"{where}: Machine has an attribute of this name; choose another")
        default = vars(kind).get(attribute, StateField.REQUIRED)
        found[attribute] = StateField(where, attribute, hint, default)
    for attribute in found:
        if attribute in vars(kind):
            delattr(kind, attribute)  # else an open machine, which has no state, would show the default
    kind._fields_declared = found  # type: ignore[attr-defined]
    return list(found.values())


def _sign(kind: type, operation: MachineMethod[Any, ..., object], names: Mapping[str, object]) -> None:
    if not hasattr(operation, "signature"):
        function = operation.__wrapped__
        where = f"{kind.__name__}.{operation.name}"
        if not isinstance(function, FunctionType):
            raise ConfigError(f"{where}: a command or query is an ordinary method")
        operation.signature = Signature(where, function, _hints(function, where, names))


def _hints(of: object, where: str, names: Mapping[str, object]) -> dict[str, Any]:
    try:
        return get_type_hints(of, localns=dict(names), include_extras=True)
    except NameError as error:
        raise ConfigError(f"{where}: an annotation can't be read ({error}): define the type before the class") from None
    except TypeError as error:
        raise ConfigError(f"{where}: an annotation can't be read ({error})") from None


def _names_around(frame: int) -> dict[str, object]:
    """The names at the place where a class is made, a function perhaps: its annotations may name them."""
    found = sys._getframe(frame + 1)
    return {**found.f_globals, **found.f_locals}


def _checked_removed(kind: type, removed: Mapping[str, int], plan: Plan) -> dict[str, int]:
    for name, version in removed.items():
        if name in plan.commands:
            raise ConfigError(f"{kind.__name__}.{name} is a command, and removed: it can't be both")
        if type(version) is not int or version < 1:
            raise ConfigError(
                f"{kind.__name__}: removed[{name!r}] is {version!r}: the machine version without it, an int"
            )
    return dict(removed)
