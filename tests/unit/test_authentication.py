"""The proofs of the peer handshake, without sockets: what they bind, and what an attacker can't make of them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import ConfigError, FrameError, HandshakeRefused
from syncline.transport.authentication import (
    MAX_SECRETS,
    NONCE_BYTES,
    AcceptorProof,
    Challenge,
    DiallerProof,
    FrameKeys,
    Opening,
    PeerAuth,
    PeerAuthentication,
    Proof,
    path_on_loopback,
)
from syncline.transport.handshake import PROTOCOL_VERSION, Purpose
from syncline.transport.messages import Refusal

ONE, TWO = b"\x01" * 32, b"\x02" * 32
CLUSTER = 0xC1
HERE = "127.0.0.1 40000 > 127.0.0.1 7100"


def encoded(value: object) -> memoryview:
    return memoryview(msgspec.msgpack.encode(value))


def counter() -> Callable[[int], bytes]:
    """Nonces that differ and are known beforehand."""
    drawn = 0

    def draw(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return bytes([drawn]) * count

    return draw


def auth(*secrets: bytes, policy: PeerAuth = "require", spare_loopback: bool = True) -> PeerAuthentication:
    return PeerAuthentication(secrets, policy=policy, spare_loopback=spare_loopback, entropy=counter())


def dialler(
    authentication: PeerAuthentication, *, node_id: int = 1, peer: int = 2, cluster_id: int = CLUSTER, path: str = ""
) -> DiallerProof:
    return DiallerProof(
        authentication, node_id=node_id, peer=peer, cluster_id=cluster_id, purpose=Purpose.MESSAGES, path=path
    )


def acceptor(authentication: PeerAuthentication, *, node_id: int = 2, cluster_id: int = CLUSTER) -> AcceptorProof:
    return AcceptorProof(authentication, node_id=node_id, cluster_id=cluster_id)


def meet(one: DiallerProof, other: AcceptorProof, path: str = "") -> tuple[FrameKeys, FrameKeys] | None:
    """Both halves with each other; the keys of each, None if they agreed to do without a proof."""
    challenge = other.challenge(encoded(one.opening), path)
    proof = one.answer(encoded(challenge))
    if proof is None:
        assert not other.awaits_proof
        return None
    answer, keys = other.prove(encoded(proof))
    return one.check(encoded(answer)), keys


class TestAgreement:
    def test_both_ends_with_one_secret_get_equal_keys_by_direction(self) -> None:
        keys = meet(dialler(auth(ONE)), acceptor(auth(ONE)))
        assert keys is not None
        assert keys[0] == keys[1]
        assert keys[0].dialler != keys[0].acceptor

    def test_each_connection_has_keys_of_its_own(self) -> None:
        mine, theirs = auth(ONE), auth(ONE)
        first, second = (meet(dialler(mine), acceptor(theirs)) for _ in range(2))
        assert first is not None
        assert second is not None
        assert not set(first[0]) & set(second[0])

    def test_ends_without_a_secret_agree_on_no_proof(self) -> None:
        assert meet(dialler(auth()), acceptor(auth())) is None

    @pytest.mark.parametrize(("mine", "theirs"), [((TWO, ONE), (ONE, TWO)), ((ONE,), (TWO, ONE)), ((ONE, TWO), (ONE,))])
    def test_rotation_any_accepted_secret_is_enough(self, mine: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> None:
        """The dialler uses its first secret, the acceptor takes any that it has."""
        assert meet(dialler(auth(*mine)), acceptor(auth(*theirs))) is not None

    def test_dialler_with_another_secret_is_refused(self) -> None:
        with pytest.raises(HandshakeRefused, match="another cluster secret"):
            meet(dialler(auth(ONE)), acceptor(auth(TWO)))

    def test_dialler_of_another_cluster_is_refused_without_its_id(self) -> None:
        with pytest.raises(HandshakeRefused, match="another cluster") as caught:
            meet(dialler(auth(ONE), cluster_id=5), acceptor(auth(ONE)))
        assert f"{CLUSTER:016x}" not in str(caught.value)

    def test_dialler_without_a_secret_is_refused(self) -> None:
        with pytest.raises(HandshakeRefused, match="--peer-secret-file"):
            meet(dialler(auth()), acceptor(auth(ONE)))

    def test_acceptor_without_a_secret_is_refused(self) -> None:
        with pytest.raises(HandshakeRefused, match="--peer-auth accept"):
            meet(dialler(auth(ONE)), acceptor(auth()))

    @pytest.mark.parametrize("secrets", [((), (ONE,)), ((ONE,), ())])
    def test_accept_lets_both_kinds_in(self, secrets: tuple[tuple[bytes, ...], tuple[bytes, ...]]) -> None:
        """For the rolling restart that brings the secret in, with the nodes that have it already on either end."""
        policies: list[PeerAuth] = ["accept" if own else "require" for own in secrets]
        ends = [auth(*own, policy=policy) for own, policy in zip(secrets, policies, strict=True)]
        assert meet(dialler(ends[0]), acceptor(ends[1])) is None

    def test_accept_still_refuses_a_wrong_proof(self) -> None:
        with pytest.raises(HandshakeRefused):
            meet(dialler(auth(ONE, policy="accept")), acceptor(auth(TWO, policy="accept")))

    def test_accept_proves_if_both_can(self) -> None:
        assert meet(dialler(auth(ONE, policy="accept")), acceptor(auth(ONE, policy="accept"))) is not None

    def test_no_common_version_is_refused(self) -> None:
        opening = Opening(PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2, 1, 2, Purpose.MESSAGES)
        with pytest.raises(HandshakeRefused, match="no common protocol version"):
            acceptor(auth()).challenge(encoded(opening))

    def test_version_that_was_not_offered_is_refused(self) -> None:
        with pytest.raises(HandshakeRefused, match="was not offered"):
            dialler(auth()).answer(encoded(Challenge(PROTOCOL_VERSION + 1)))


class TestAttacks:
    def test_reflected_opening_gets_no_proof(self) -> None:
        """A attacker opens to node 1 with node 1's own frames, to have it answer its own challenge."""
        mine = auth(ONE)
        outgoing, incoming = dialler(mine), acceptor(mine, node_id=1)
        challenge = incoming.challenge(encoded(outgoing.opening))
        proof = outgoing.answer(encoded(challenge))
        assert proof is not None
        with pytest.raises(HandshakeRefused, match="wrong node"):
            incoming.prove(encoded(proof))

    def test_reflected_proof_is_no_proof_of_the_acceptor(self) -> None:
        outgoing = dialler(auth(ONE))
        proof = outgoing.answer(encoded(Challenge(PROTOCOL_VERSION, b"n" * NONCE_BYTES)))
        assert proof is not None
        with pytest.raises(HandshakeRefused, match="another cluster secret"):
            outgoing.check(encoded(proof))

    def test_relayed_opening_gets_no_proof_from_another_node(self) -> None:
        """An attacker at the address of node 2 passes the dial of node 1 on to node 3."""
        outgoing, third = dialler(auth(ONE)), acceptor(auth(ONE), node_id=3)
        proof = outgoing.answer(encoded(third.challenge(encoded(outgoing.opening))))
        with pytest.raises(HandshakeRefused, match="wrong node"):
            third.prove(encoded(proof))

    def test_replayed_proof_fails_on_a_new_challenge(self) -> None:
        theirs = auth(ONE)
        outgoing, first = dialler(auth(ONE)), acceptor(theirs)
        proof = outgoing.answer(encoded(first.challenge(encoded(outgoing.opening))))
        first.prove(encoded(proof))
        second = acceptor(theirs)
        second.challenge(encoded(outgoing.opening))
        with pytest.raises(HandshakeRefused):
            second.prove(encoded(proof))

    @given(
        st.sampled_from(["oldest_version", "sender", "to", "purpose", "nonce", "path", "version", "own", "spared"]),
        st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
    )
    def test_changed_field_on_the_way_fails_the_proof(self, field: str, noise: bytes) -> None:
        """An attacker in the middle changes one field of either frame, and the proofs no longer fit."""
        changes: dict[str, object] = {"oldest_version": 1, "sender": 9, "to": 9, "purpose": 1, "nonce": noise}
        changes["path"] = "127.0.0.1 1 > 127.0.0.1 2"
        outgoing, incoming = dialler(auth(ONE), path=HERE), acceptor(auth(ONE))
        opening: Opening = outgoing.opening
        if field in changes:
            if msgspec.structs.asdict(opening)[field] == changes[field]:
                return
            opening = msgspec.structs.replace(opening, **{field: changes[field]})
        challenge = incoming.challenge(encoded(opening), HERE)
        if field == "own":
            challenge = msgspec.structs.replace(challenge, nonce=noise)
        elif field == "spared":
            challenge = msgspec.structs.replace(challenge, spared=not challenge.spared)
        elif field == "version":
            challenge = msgspec.structs.replace(challenge, version=True)
        with pytest.raises((HandshakeRefused, FrameError)):
            incoming.prove(encoded(outgoing.answer(encoded(challenge))))

    @given(st.binary(max_size=64))
    def test_guessed_proof_fails(self, guess: bytes) -> None:
        incoming = acceptor(auth(ONE))
        incoming.challenge(encoded(dialler(auth(ONE)).opening))
        with pytest.raises(HandshakeRefused):
            incoming.prove(encoded(Proof(guess)))

    @given(st.integers(0, 200))
    def test_truncated_frame_is_a_frame_error(self, size: int) -> None:
        outgoing, incoming = dialler(auth(ONE)), acceptor(auth(ONE))
        opening = encoded(outgoing.opening)
        if size < len(opening):
            with pytest.raises(FrameError):
                incoming.challenge(opening[:size])
        challenge = encoded(acceptor(auth(ONE)).challenge(opening))
        if size < len(challenge):
            with pytest.raises(FrameError):
                outgoing.answer(challenge[:size])

    @pytest.mark.parametrize("size", [1, 31])
    def test_short_nonce_is_a_frame_error(self, size: int) -> None:
        opening = msgspec.structs.replace(dialler(auth(ONE)).opening, nonce=bytes(size))
        with pytest.raises(FrameError, match="nonce"):
            acceptor(auth(ONE)).challenge(encoded(opening))
        with pytest.raises(FrameError, match="malformed"):
            dialler(auth(ONE)).answer(encoded(Challenge(PROTOCOL_VERSION, bytes(size))))

    def test_refusal_before_the_proof_is_shown_and_has_no_code(self) -> None:
        """Anyone on the way could say "removed", and the node would stop."""
        refusal = encoded(Refusal("go\x1b away", "removed"))
        for take in (dialler(auth(ONE)).answer, dialler(auth(ONE)).check):
            with pytest.raises(HandshakeRefused, match="refused by the peer: go� away") as caught:
                take(refusal)
            assert not hasattr(caught.value, "refusal")


class TestLoopback:
    def test_same_path_at_both_ends_spares_the_frame_mac(self) -> None:
        one, other = dialler(auth(ONE), path=HERE), acceptor(auth(ONE))
        assert meet(one, other, HERE) is not None
        assert one.spared
        assert other.spared

    @pytest.mark.parametrize("path", ["", "127.0.0.1 40001 > 127.0.0.1 7100"])
    def test_different_path_keeps_the_frame_mac(self, path: str) -> None:
        """A tunnel or a proxy stands between: each end sees loopback, but not the other one's port."""
        one, other = dialler(auth(ONE), path=HERE), acceptor(auth(ONE))
        meet(one, other, path)
        assert not one.spared
        assert not other.spared

    def test_acceptor_can_not_spare_what_was_not_offered(self) -> None:
        with pytest.raises(FrameError, match="malformed"):
            dialler(auth(ONE)).answer(encoded(Challenge(PROTOCOL_VERSION, bytes(NONCE_BYTES), True)))

    def test_setting_keeps_the_frame_mac(self) -> None:
        one, other = dialler(auth(ONE, spare_loopback=False), path=HERE), acceptor(auth(ONE))
        meet(one, other, HERE)
        assert not one.spared

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            (("127.0.0.1", 1), ("127.8.0.1", 2), "127.0.0.1 1 > 127.8.0.1 2"),
            (("::1", 1, 0, 0), ("::1", 2, 0, 0), "::1 1 > ::1 2"),
            (("127.0.0.1", 1), ("10.0.0.1", 2), ""),
            (("a", 1), ("b", 2), ""),
            (None, ("127.0.0.1", 1), ""),
            ("/a/unix/socket", "", ""),
        ],
    )
    def test_path_holds_loopback_addresses_alone(self, one: object, other: object, expected: str) -> None:
        assert path_on_loopback(one, other) == expected


class TestSecrets:
    @pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 1025])
    def test_secret_of_a_bad_length_is_refused(self, secret: bytes) -> None:
        with pytest.raises(ConfigError, match="syncline secret new"):
            PeerAuthentication((secret,))

    def test_too_many_secrets_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="at most 8"):
            PeerAuthentication((ONE,) * (MAX_SECRETS + 1))

    def test_secret_of_another_type_is_refused_unseen(self) -> None:
        with pytest.raises(ConfigError, match="give bytes") as caught:
            PeerAuthentication(("s" * 40,))  # type: ignore[arg-type]
        assert "sss" not in str(caught.value)

    def test_repr_shows_no_secret(self) -> None:
        shown = repr(PeerAuthentication((b"hush-hush-hush-hush-hush-hush-hush",)))
        assert shown == "<PeerAuthentication with 1 secrets, require>"


def test_acceptor_refuses_a_dialler_of_protocol_1_by_its_version() -> None:
    """Its first frame is a Hello. It reads the refusal, and shows the reason."""
    hello = [1, 1, 1, 7, 1, 2, 0, 9, "127.0.0.1:7100", 5, 6]
    with pytest.raises(HandshakeRefused, match="no common protocol version: node 0000000000000001 speaks 1 to 1"):
        acceptor(auth()).challenge(encoded(hello))
    newer = [1, 2, 2, 7, 1]
    with pytest.raises(FrameError, match="node 0000000000000001 sends no opening"):
        acceptor(auth()).challenge(encoded(newer))
