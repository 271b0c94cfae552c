"""Redis' protocol, as far as the load needs it."""

from __future__ import annotations

from bench.generators.closedloop import Answer

END = b"\r\n"


def command(*parts: str) -> bytes:
    """A command as Redis reads it."""
    shown = [f"*{len(parts)}\r\n"]
    shown += [f"${len(part.encode())}\r\n{part}\r\n" for part in parts]
    return "".join(shown).encode()


def one_answer(data: bytearray) -> Answer | None:
    """A line, or a value with its length before it. An error or a missing value is no success."""
    end = data.find(END)
    if end < 0:
        return None
    if data[:1] != b"$":
        return Answer(end + 2, succeeded=data[:1] != b"-")
    length = int(data[1:end])
    whole = end + 2 if length < 0 else end + 2 + length + 2
    return Answer(whole, succeeded=length >= 0) if len(data) >= whole else None


def written_to_two(data: bytearray) -> Answer | None:
    """The answers to a write and to `WAIT 1`: stored, and at least one replica has it."""
    first = one_answer(data)
    if first is None:
        return None
    second = one_answer(data[first.length :])
    if second is None:
        return None
    replicas = bytes(data[first.length + 1 : first.length + second.length - 2])
    enough = second.succeeded and replicas.isdigit() and int(replicas) >= 1
    return Answer(first.length + second.length, succeeded=first.succeeded and enough)
