"""`EtcdFace`: carries out calls of etcd's interface, for the JSON gateway and gRPC alike.

A protocol makes a message of each request, calls the face with the method and the `EtcdCaller`, and makes bytes of what
comes back. Each service registers its methods (`unary`, `callback`, `streaming`); a method without one is answered
UNIMPLEMENTED.

    answer = await face.call(METHODS["/etcdserverpb.KV/Range"], {"key": b"a"}, EtcdCaller(timeout_s=5.0))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import msgspec

from syncline.server.etcd.errors import UNIMPLEMENTED, EtcdError, etcd_error
from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS, READING, Method
from syncline.server.tasks import Tasks

if TYPE_CHECKING:
    from syncline.server.auth.principal import Principal

__all__ = [
    "CallerAdmission",
    "CallbackCall",
    "EtcdCaller",
    "EtcdFace",
    "Finished",
    "Send",
    "StreamingCall",
    "UnaryCall",
]

DEFAULT_TIMEOUT_S: Final = 7.0
"""etcd ends a call after 5 s and two elections; a client's own deadline is often shorter."""


class EtcdCaller(msgspec.Struct, eq=False, gc=False):
    """The client of one call, and how long it waits. The protocol gives all but `principal`."""

    timeout_s: float = DEFAULT_TIMEOUT_S
    """The seconds until the call must be answered."""
    token: bytes = b""
    """What `Authenticate` has given, as it was sent: metadata `token`, or the header field `Authorization`."""
    address: str = ""
    """The client's address, without a port."""
    owner: Hashable | None = None
    """The connection: what one may have, such as watches, is limited together."""
    request_bytes: int = 0
    """The size of the request, as it came: it counts as what its user may propose."""
    principal: Principal | None = None
    """The user of the token, while clients need credentials. The face sets it."""


Finished: TypeAlias = Callable[[Message | None, EtcdError | None], None]
"""Takes the answer of a call, or its error; called once, on the event loop."""

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends one message of a stream. It returns when the client has room for another one."""

UnaryCall: TypeAlias = Callable[[Message, EtcdCaller], Awaitable[Message]]
CallbackCall: TypeAlias = Callable[[Message, EtcdCaller, Finished], None]
"""Carries out a call without a task, for those that come thousands of times a second. It may raise."""
StreamingCall: TypeAlias = Callable[[AsyncIterator[Message], Send, EtcdCaller], Awaitable[None]]


class CallerAdmission(Protocol):
    """Finds the user of a call, while clients need credentials (`services/auth.py`)."""

    @property
    def needed(self) -> bool:
        """Whether clients need credentials now."""
        ...

    def known(self, caller: EtcdCaller) -> bool:
        """Set the caller's principal, if its token was found good before; whether that is so."""
        ...

    async def admit(self, caller: EtcdCaller) -> None:
        """Set the caller's principal. Raises `EtcdError`."""
        ...

    def counted(self, caller: EtcdCaller, finished: Finished) -> Finished:
        """Count a call among those of its user until `finished`. Raises `RequestError` if the user has too many."""
        ...


class CallObserver(Protocol):
    """Notes how calls end (`audit.py`)."""

    def concerns(self, method: Method) -> bool:
        """Whether each call of the method is noted, also one that succeeds."""
        ...

    def ended(self, method: Method, caller: EtcdCaller, error: EtcdError | None) -> None:
        """A call has ended."""
        ...


class FirstRevision(Protocol):
    """Gives an empty store its first revision (`context.py`)."""

    @property
    def begun(self) -> bool:
        """Whether the store has one."""
        ...

    async def begin(self, timeout_s: float) -> None:
        """Give it one. Raises `SynclineError`."""
        ...


OPEN_METHODS: Final = frozenset(
    {"/etcdserverpb.Auth/Authenticate", "/etcdserverpb.Auth/AuthStatus", "/etcdserverpb.Cluster/MemberList"}
)
"""Methods that need no credential: clients look for the members, and log in, before they have one."""

_WITHOUT_REVISION: Final = frozenset(
    {name for name in METHODS if name.startswith(("/etcdserverpb.Auth/", "/etcdserverpb.Cluster/"))}
)
"""Methods whose answers have no revision of the store."""


class EtcdFace:
    """The methods of one node. Everything runs on the event loop."""

    def __init__(
        self,
        tasks: Tasks,
        *,
        admission: CallerAdmission | None = None,
        first: FirstRevision | None = None,
        audit: CallObserver | None = None,
    ) -> None:
        self._tasks = tasks
        self._audit = audit
        self._admission = admission
        self._first = first
        self._unary: dict[str, UnaryCall] = {}
        self._callbacks: dict[str, CallbackCall] = {}
        self._streams: dict[str, StreamingCall] = {}

    # --- registration

    def unary(self, name: str, call: UnaryCall) -> None:
        """Carry out a method by a coroutine function."""
        assert not METHODS[name].streams, name
        self._unary[name] = call

    def callback(self, name: str, call: CallbackCall) -> None:
        """Carry out a method by a function that answers now or later."""
        assert not METHODS[name].streams, name
        self._callbacks[name] = call

    def streaming(self, name: str, call: StreamingCall) -> None:
        """Carry out a method whose answer is a stream. The call ends when the coroutine does."""
        assert METHODS[name].streams, name
        self._streams[name] = call

    # --- calls

    async def call(self, method: Method, request: Message, caller: EtcdCaller) -> Message:
        """Carry out a call whose answer is one message. Cancel the task to end it. Raises `EtcdError`."""
        answered: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def finished(answer: Message | None, error: EtcdError | None) -> None:
            if answered.done():
                return
            if error is not None:
                answered.set_exception(error)
            else:
                assert answer is not None
                answered.set_result(answer)

        try:
            if not self.is_prepared(method, caller):
                await self._prepare(method, caller)
        except Exception as error:
            raise etcd_error(error) from error
        if (unary := self._unary.get(method.name)) is not None:
            await _run(unary, request, caller, self._noted(method, caller, finished))  # cancelled together with it
        else:
            self._start(method, request, caller, finished)
        return await answered

    def _noted(self, method: Method, caller: EtcdCaller, finished: Finished) -> Finished:
        """`finished`, which tells the audit log first."""
        audit = self._audit
        if audit is None:
            return finished

        def noted(answer: Message | None, error: EtcdError | None) -> None:
            audit.ended(method, caller, error)
            finished(answer, error)

        return noted

    def is_prepared(self, method: Method, caller: EtcdCaller) -> bool:
        """Whether nothing must be found out or waited for before the call: most calls. It sets the caller's user."""
        admission, first = self._admission, self._first
        needs_user = admission is not None and admission.needed and method.name not in OPEN_METHODS
        if needs_user and admission is not None and not admission.known(caller):
            return False
        return first is None or first.begun or method.name in _WITHOUT_REVISION

    async def _prepare(self, method: Method, caller: EtcdCaller) -> None:
        """Find the caller's user, and give an empty store its first revision."""
        admission, first = self._admission, self._first
        if admission is not None and admission.needed and method.name not in OPEN_METHODS:
            await admission.admit(caller)
        if first is not None and not first.begun and method.name not in _WITHOUT_REVISION:
            await first.begin(caller.timeout_s)

    def start(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """`call` for a caller without a task: `finished` gets the answer or the error, now or later."""
        if not self.is_prepared(method, caller):
            self._tasks.spawn(self._start_later(method, request, caller, finished), name=method.name)
            return
        self._start_counted(method, request, caller, finished)

    def _start_counted(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        """`_start`, within the limit of the user. What a call asks for itself, such as a lock, is not counted."""
        if self._admission is not None and caller.principal is not None:
            if method.name in READING:
                caller.request_bytes = 0  # it proposes nothing
            try:
                finished = self._admission.counted(caller, finished)
            except Exception as error:  # noqa: BLE001 - becomes the answer
                finished(None, etcd_error(error))
                return
        self._start(method, request, caller, finished)

    def _start(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        if self._audit is not None and (caller.principal is not None or self._audit.concerns(method)):
            finished = self._noted(method, caller, finished)
        if (callback := self._callbacks.get(method.name)) is not None:
            try:
                callback(request, caller, finished)
            except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
                finished(None, etcd_error(error))
        elif (unary := self._unary.get(method.name)) is not None:
            self._tasks.spawn(_run(unary, request, caller, finished), name=method.name)
        else:
            finished(None, _unknown(method))

    async def _start_later(self, method: Method, request: Message, caller: EtcdCaller, finished: Finished) -> None:
        try:
            await self._prepare(method, caller)
        except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
            finished(None, etcd_error(error))
            return
        self._start_counted(method, request, caller, finished)

    async def stream(self, method: Method, inbox: AsyncIterator[Message], send: Send, caller: EtcdCaller) -> None:
        """Carry out a call whose answer is a stream: messages go out by `send`, and it has ended when this returns.

        `inbox` gives the client's messages, and ends when the client sends no more. Cancel the task to end the call.

        Raises:
            EtcdError: the call ends with this error.
        """
        call = self._streams.get(method.name)
        if call is None:
            raise _unknown(method)
        try:
            if not self.is_prepared(method, caller):
                await self._prepare(method, caller)
            await call(inbox, send, caller)
        except Exception as error:
            told = etcd_error(error)
            if self._audit is not None:
                self._audit.ended(method, caller, told)
            raise told from error


async def _run(unary: UnaryCall, request: Message, caller: EtcdCaller, finished: Finished) -> None:
    try:
        answer = await unary(request, caller)
    except Exception as error:  # noqa: BLE001 - becomes the answer, and a fault is logged there
        finished(None, etcd_error(error))
        return
    finished(answer, None)


def _unknown(method: Method) -> EtcdError:
    return EtcdError(UNIMPLEMENTED, f"unknown method {method.name.rpartition('/')[2]}")
