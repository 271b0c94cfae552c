"""Bugs of typed machines: logs that the code can't read, and states that differ from node to node."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from syncline.errors import Rejected
from syncline.machines import codec, machine
from syncline.machines.codec import Codec
from syncline.machines.machine import Machine
from tests.mutations.catalogue import Mutation, test_hunt

__all__ = [
    "MACHINES",
    "declaration_is_not_compared",
    "dict_order_is_lost",
    "sets_are_not_sorted",
    "unreadable_is_refused",
]

UNIT, UPGRADES = "unit.test_machines", "unit.test_machine_upgrades"


def declaration_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    """Code that lacks commands of its log starts to apply it."""

    def lenient(*_: Any, **__: Any) -> None:
        return

    patch.setattr(machine, "check_declared", lenient)


def dict_order_is_lost(patch: pytest.MonkeyPatch) -> None:
    """A restored node has its dicts in another order than the others."""
    in_order = msgspec.msgpack.Encoder(order="deterministic")

    def dump(self: Codec, value: object) -> bytes:
        return in_order.encode(value)

    patch.setattr(Codec, "dump", dump)


def sets_are_not_sorted(patch: pytest.MonkeyPatch) -> None:
    """Equal states have snapshots and digests that differ from process to process."""

    def as_they_come(elements: frozenset[object]) -> list[msgspec.Raw]:
        return [msgspec.Raw(msgspec.msgpack.encode(one)) for one in elements]

    patch.setattr(codec, "_sorted", as_they_come)


def unreadable_is_refused(patch: pytest.MonkeyPatch) -> None:
    """Arguments that a newer node can read are refused by an older one, which goes on."""

    def refuse(self: Machine, command: Any, data: msgspec.Raw, where: str) -> Any:
        try:
            return command.signature.load(data)
        except msgspec.DecodeError as error:
            raise Rejected(str(error)) from None

    patch.setattr(Machine, "_arguments", refuse)


MACHINES: tuple[Mutation, ...] = (
    Mutation(
        "a log is read by code that lacks its commands",
        "planted",
        declaration_is_not_compared,
        (test_hunt(UPGRADES, "test_machine_without_a_command_of_its_log_applies_nothing", "DID NOT RAISE"),),
    ),
    Mutation(
        "a snapshot changes the order of a dict",
        "planted",
        dict_order_is_lost,
        (test_hunt(UNIT, "test_codec_pieces_of_a_dict_keep_its_order", "", value={"b": 1, "a": 2}),),
    ),
    Mutation(
        "a set is written in its order of the moment",
        "planted",
        sets_are_not_sorted,
        (test_hunt(UNIT, "test_codec_sets_have_one_form", ""),),
    ),
    Mutation(
        "a node refuses what a newer one applies",
        "planted",
        unreadable_is_refused,
        (test_hunt(UNIT, "test_machine_refuses_what_it_cannot_read_alike_in_check_and_apply", ""),),
    ),
)
