"""The results of a batch in the form of its answer: `kv/serving/batch_parts.py` has the parts."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import UNSET, UnsetType

from syncline.client.packed_schemas import PackedResult
from syncline.client.schemas import ResultItem
from syncline.errors import Rejected
from syncline.kv import commands
from syncline.kv.records import BatchAnswer, OperationAnswer, PutAnswer
from syncline.kv.serving.batch_parts import BatchPart, PartedBatch
from syncline.server.api.errors import RequestError, operation_error
from syncline.server.api.operation_results import JsonResults, PackedResults
from syncline.server.api.operations import AnyOperation, WithSession
from syncline.server.auth.principal import Principal
from syncline.sessions.entries import LARGEST_SEQUENCE, OnceKey

__all__ = ["BatchPart", "BatchParts", "authorise_once", "authorise_part", "once_key"]

Results: TypeAlias = JsonResults | PackedResults


def authorise_part(part: BatchPart, principal: Principal) -> None:
    """Make the command of a part one of a user. Its operations were checked one by one."""
    if part.key is not None:
        part.key = authorise_once(part, part.key, principal)
    else:
        part.command = principal.authorised(part.command)


def authorise_once(part: BatchPart, key: OnceKey, principal: Principal) -> OnceKey:
    """`authorise_part` for a part with a key, or a batch that has one as a whole. Return the user's key."""
    part.fingerprint = principal.fingerprint(part.fingerprint or part.command)
    part.command = principal.authorised(part.command)
    return principal.scoped(key)


class BatchParts(PartedBatch[ResultItem | PackedResult]):
    """Collects the operations of a batch into parts, and their results."""

    __slots__ = ("_form",)

    def __init__(self, count: int, form: Results) -> None:
        super().__init__(count)
        self._form = form

    @property
    def form(self) -> Results:
        """The form of the answer."""
        return self._form

    def answered(self, part: BatchPart, answer: BatchAnswer) -> None:
        result, put_result, results = self._form.result, self._form.put_result, self._results
        for place, operation, one in zip(part.places, part.operations, answer.results, strict=True):
            if type(one) is PutAnswer and one.previous is None and not one.lease:
                results[place] = put_result(status=200, op="put", revision=one.revision, created=one.created)
            elif isinstance(one, Rejected):
                self.refuse(place, one)
            else:
                item = result(operation, one)
                item.status = 200
                results[place] = item
        self.revision: int = max(self.revision, answer.revision)

    def _refused(self, error: Exception, repeated: bool = False) -> ResultItem | PackedResult:
        item = self._form.refused(*operation_error(error))
        if repeated:
            item.replayed = True
        return item

    def _done_once(
        self, operation: commands.BatchOperation, answer: OperationAnswer, repeated: bool
    ) -> ResultItem | PackedResult:
        item = self._form.result(operation, answer)
        item.status = 200
        if repeated:
            item.replayed = True
        return item


def once_key(item: AnyOperation) -> OnceKey | None:
    """The key of an operation that takes effect once; None if it has none. Raises `RequestError`."""
    if not isinstance(item, WithSession) or (item.session is UNSET and item.sequence is UNSET):
        return None
    if isinstance(item.session, UnsetType) or isinstance(item.sequence, UnsetType):
        raise RequestError("the operation: 'session' and 'sequence' go together")
    session = int(item.session, 16)
    if not 0 < session <= LARGEST_SEQUENCE:
        raise RequestError("the operation: 'session' is no id of a session, as POST /session has answered it")
    return OnceKey(session, item.sequence)
