"""Random credentials: none but the right ones are admitted, and each gets an answer."""

from __future__ import annotations

import base64
import random

import pytest

from tests.helpers.auth_site import PASSWORD, AuthWire, bearer, token_of

GOOD = [
    b"Bearer " + token_of("ann").encode(),
    b"Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()),
]


def mutated(rng: random.Random) -> bytes:
    """A good field with some bytes changed, cut, repeated, or put together with another."""
    data = bytearray(rng.choice(GOOD))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.choice(b"ABCabc019_-+/=:, \t")])
            case 1:
                del data[at : at + rng.randint(1, 50)]
            case 2:
                data[at:at] = data[: rng.randint(1, 60)]
            case 3:
                data += b" " * rng.randint(1, 3)
            case 4:
                user, size = rng.choice([b"ann", b"root", b"", b"\xff", b"a" * 300]), rng.choice([0, 3, 2000])
                data = bytearray(b"Basic " + base64.b64encode(user + b":" + rng.randbytes(size)))
            case _:
                forged = b"Bearer syncline_" + rng.randbytes(32).hex().encode()[:43]
                data = bytearray(data.swapcase() if rng.random() < 0.5 else forged)
    return bytes(data).strip() or b"x"


def is_good(field: bytes) -> bool:
    """By the rules of HTTP: the scheme in any case, blanks around the credential."""
    scheme, _, rest = field.partition(b" ")
    return (scheme.lower(), rest.strip(b" ")) in {(b"bearer", GOOD[0][7:]), (b"basic", GOOD[1][6:])}


async def run(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    wire = AuthWire()
    for _ in range(rounds):
        field = mutated(rng)
        if b"\t" in field:
            field = field.replace(b"\t", b"")
        wire.now_s += 1000.0  # no lock-out
        answer = await wire.ask("GET", "/auth", b"", f"Authorization: {field.decode('latin-1')}")
        if is_good(field):
            assert answer.status == 200, field
        else:
            assert answer.status in {400, 401, 431}, field
    assert (await wire.ask("GET", "/auth", b"", bearer("ann"))).status == 200, "the server goes on"
    assert len(wire.site.gate.lock_out) <= 4096


@pytest.mark.parametrize("seed", range(3))
async def test_random_credentials_are_refused(seed: int) -> None:
    await run(seed, 100)


@pytest.mark.slow
@pytest.mark.deadline(110)
@pytest.mark.parametrize("seed", range(100, 120))
async def test_many_random_credentials_are_refused(seed: int) -> None:
    await run(seed, 3000)
