"""The readable form of a transaction, as `syncline txn` reads it: one compare or operation a line.

    # publish the draft, if no other client did
    if mod(draft) == 3
    if value(state) == "in review"
    then put state published
    then del draft
    else get state

A line begins with `if`, `then` or `else`. All compares must hold. Words are separated by spaces; a word in double
quotes may hold spaces, and `\\"`, `\\\\`, `\\n`, `\\r`, `\\t`, `\\xHH`. A line that begins with `#` is a comment.

A compare is `TARGET(KEY) OPERATOR OPERAND`: TARGET is mod, create, version, value or lease, OPERATOR is ==, !=, < or >.
`TARGET(prefix PREFIX)` and `TARGET(range START END)` hold if they hold for each of these keys.

Keywords count only outside quotes: `del "prefix"` deletes the key with that name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from syncline.cli.common import parse_duration_s
from syncline.client import (
    Compare,
    DeleteOp,
    DeletePrefixOp,
    DeleteRangeOp,
    GetOp,
    IncrementOp,
    ListOp,
    Operation,
    PutOp,
    TouchOp,
)

__all__ = ["MAX_TEXT_BYTES", "TxnText", "TxnTextError", "parse_txn"]

MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
"""The server takes no larger transaction."""

_Operator: TypeAlias = Literal["==", "!=", "<", ">"]
_OPERATORS: Final[tuple[_Operator, ...]] = get_args(_Operator)
_SIGN: Final = re.compile(rb"==|!=|<|>|=")
_NUMBERS: Final = {"mod": "mod_revision", "create": "create_revision", "version": "version"}
_TARGETS: Final = (*_NUMBERS, "value", "lease")
_NO_LEASE: Final = "none"
_LEASE: Final = re.compile(r"[0-9a-f]{16}")

_WORD: Final = re.compile(rb'[^\s"]+')
_COMPARE_WORD: Final = re.compile(rb'[^\s"()=!<>]+')
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_ESCAPES: Final = {b'"': b'"', b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class TxnTextError(ValueError):
    """A line that can't be read. The message names it by its number."""


class TxnText(msgspec.Struct):
    """A transaction that was read."""

    compare: list[Compare] = []
    then: list[Operation] = []
    else_: list[Operation] = []


class Word(msgspec.Struct, frozen=True):
    """One word of a line. A quoted one is never a keyword."""

    data: bytes
    quoted: bool = False

    def is_keyword(self, text: str) -> bool:
        """Whether it is this keyword."""
        return not self.quoted and self.data == text.encode()

    @property
    def text(self) -> str:
        """Its text, for errors and numbers."""
        return self.data.decode("utf-8", "backslashreplace")


def parse_txn(data: bytes) -> TxnText:
    """Read a transaction. Raises `TxnTextError`."""
    if len(data) > MAX_TEXT_BYTES:
        raise TxnTextError(f"the text has {len(data)} bytes; the limit is {MAX_TEXT_BYTES}")
    found = TxnText()
    for number, line in enumerate(data.split(b"\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        try:
            _read_line(stripped, found)
        except TxnTextError as error:
            raise TxnTextError(f"line {number}: {error}") from None
    return found


def _read_line(line: bytes, found: TxnText) -> None:
    first, rest = (*line.split(None, 1), b"")[:2]
    match first:
        case b"if":
            found.compare.append(_compare(rest))
        case b"then":
            found.then.append(_Operands(list(_words(rest))).operation())
        case b"else":
            found.else_.append(_Operands(list(_words(rest))).operation())
        case _:
            raise TxnTextError(f"it begins with {_shown(first)}; expected if, then or else")


# --- words


def _words(text: bytes) -> Iterator[Word]:
    position = 0
    while position < len(text):
        if text[position : position + 1].isspace():
            position += 1
            continue
        word, position = _word(text, position, _WORD)
        if position < len(text) and not text[position : position + 1].isspace():
            raise TxnTextError(f"a quote stands inside the word {_shown(word.data)}: put the whole word in quotes")
        yield word


def _word(text: bytes, position: int, plain: re.Pattern[bytes]) -> tuple[Word, int]:
    """The word at a position, and the position behind it."""
    if text[position : position + 1] == b'"':
        found = _QUOTED.match(text, position)
        if found is None:
            raise TxnTextError("a quoted word has no end")
        return Word(_ESCAPE.sub(_unescaped, found[1]), quoted=True), found.end()
    found = plain.match(text, position)
    if found is None:
        raise TxnTextError(f"{_shown(text[position : position + 1])} is not expected here")
    return Word(found[0]), found.end()


def _unescaped(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    if len(escape) == 3:
        return bytes([int(escape[1:], 16)])
    if escape not in _ESCAPES:
        raise TxnTextError(f'\\{escape.decode("latin-1")} is no escape; known are \\", \\\\, \\n, \\r, \\t and \\xHH')
    return _ESCAPES[escape]


def _shown(data: bytes) -> str:
    return repr(data[:40].decode("utf-8", "backslashreplace"))


# --- compares


def _compare(text: bytes) -> Compare:
    form = "expected TARGET(KEY) OPERATOR OPERAND, such as mod(a) == 3"
    tokens = _CompareText(text)
    target = tokens.word(form).text
    if target not in _TARGETS:
        raise TxnTextError(f"the target {target[:40]!r} is none of {', '.join(_TARGETS)}")
    keys = tokens.keys(form)
    operator = tokens.operator()
    operand = tokens.word(f"expected what {target} is compared with")
    if not tokens.at_end:
        raise TxnTextError("there is more behind the compare; a value with spaces stands in double quotes")
    key, end, is_prefix = _compared(keys)
    if target == "value":
        return Compare(key, op=operator, value=operand.data, end=end, prefix=is_prefix)
    if target == "lease":
        return Compare(key, op=operator, lease=_lease(operand, none_ok=True), end=end, prefix=is_prefix)
    number = _number(operand, "the operand")
    if number < 0:
        raise TxnTextError(f"the operand is {number}; expected 0 or more")
    if target == "mod":
        return Compare(key, "mod_revision", operator, number, end=end, prefix=is_prefix)
    if target == "create":
        return Compare(key, "create_revision", operator, number, end=end, prefix=is_prefix)
    return Compare(key, "version", operator, number, end=end, prefix=is_prefix)


class _CompareText:
    """The text of a compare, read from left to right. Brackets and operators are words of their own."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._position = 0
        self._pass_spaces()

    @property
    def at_end(self) -> bool:
        return self._position == len(self._text)

    def _pass_spaces(self) -> None:
        while self._text[self._position : self._position + 1].isspace():
            self._position += 1

    def word(self, expected: str) -> Word:
        """The next word."""
        if self.at_end or self._text[self._position : self._position + 1] in b"()=!<>":
            raise TxnTextError(expected)
        word, self._position = _word(self._text, self._position, _COMPARE_WORD)
        self._pass_spaces()
        return word

    def keys(self, expected: str) -> list[Word]:
        """The words in brackets."""
        self._sign(b"(", expected)
        words = [self.word(expected)]
        while not self._text.startswith(b")", self._position):
            words.append(self.word(expected))
        self._sign(b")", expected)
        return words

    def operator(self) -> _Operator:
        """The next operator; `=` means `==`."""
        found = _SIGN.match(self._text, self._position)
        if found is None:
            raise TxnTextError(f"the operator is none of {' '.join(_OPERATORS)}")
        self._position = found.end()
        self._pass_spaces()
        for operator in _OPERATORS:
            if found[0].decode() == operator:
                return operator
        return "=="

    def _sign(self, sign: bytes, expected: str) -> None:
        if not self._text.startswith(sign, self._position):
            raise TxnTextError(expected)
        self._position += len(sign)
        self._pass_spaces()


def _compared(words: list[Word]) -> tuple[bytes, bytes | None, bool]:
    """The key of a compare, its end, and whether the key is a prefix."""
    if len(words) == 1:
        return _key(words[0]), None, False
    if len(words) == 2 and words[0].is_keyword("prefix"):
        return words[1].data, None, True
    if len(words) == 3 and words[0].is_keyword("range"):
        return _key(words[1]), words[2].data, False
    raise TxnTextError("expected one key in the brackets, or prefix PREFIX, or range START END")


# --- operations


class _Operands:
    """The words of an operation, taken from left to right."""

    def __init__(self, words: list[Word]) -> None:
        self._words = words[::-1]

    def operation(self) -> Operation:
        """The operation. Raises `TxnTextError`."""
        if not self._words:
            raise TxnTextError("expected an operation: put, del, get, list, incr or touch")
        name = self._words.pop()
        makers = {
            "put": self._put,
            "del": self._delete,
            "get": self._get,
            "list": self._list,
            "incr": self._increment,
            "touch": self._touch,
        }
        if name.quoted or name.text not in makers:
            raise TxnTextError(f"{name.text[:40]!r} is no operation; known are {', '.join(makers)}")
        operation = makers[name.text]()
        if self._words:
            raise TxnTextError(f"{_shown(self._words[-1].data)} is not expected here; quote words with spaces")
        return operation

    def _put(self) -> Operation:
        key, value = self._key("put KEY VALUE"), self._take("put KEY VALUE").data
        lease: str | None = None
        ttl: float | None = None
        if self._keyword("lease"):
            lease = _lease(self._take("put KEY VALUE lease ID"))
        elif self._keyword("ttl"):
            ttl = _time(self._take("put KEY VALUE ttl TIME"))
        return PutOp(key, value, lease, ttl, previous=self._keyword("prev"))

    def _delete(self) -> Operation:
        form = "del KEY, del prefix PREFIX or del range START END"
        if len(self._words) > 1 and self._keyword("prefix"):
            return DeletePrefixOp(self._take(form).data, previous=self._keyword("prev"))
        if len(self._words) > 1 and self._keyword("range"):
            start, end = self._take(form).data, self._take(form).data
            return DeleteRangeOp(start, end, previous=self._keyword("prev"))
        return DeleteOp(self._key(form), previous=self._keyword("prev"))

    def _get(self) -> Operation:
        return GetOp(self._key("get KEY"), self._revision())

    def _list(self) -> Operation:
        form = "list PREFIX or list range START END"
        prefix = start = end = None
        if len(self._words) > 1 and self._keyword("range"):
            start, end = self._take(form).data, self._take(form).data
        else:
            prefix = self._take(form).data
        limit = _count(self._take("limit N"), "limit") if self._keyword("limit") else 0
        values = self._keyword("values")
        return ListOp(prefix, start, end, limit=limit, values=values, revision=self._revision())

    def _increment(self) -> Operation:
        key, by = self._key("incr KEY [BY]"), 1
        if self._words and not self._words[-1].is_keyword("prev"):
            by = _number(self._take("incr KEY [BY]"), "BY")
        return IncrementOp(key, by, previous=self._keyword("prev"))

    def _touch(self) -> Operation:
        return TouchOp(self._key("touch KEY TIME"), _time(self._take("touch KEY TIME")))

    def _take(self, form: str) -> Word:
        if not self._words:
            raise TxnTextError(f"a word is missing: {form}")
        return self._words.pop()

    def _key(self, form: str) -> bytes:
        return _key(self._take(form))

    def _keyword(self, text: str) -> bool:
        """Whether the next word is this keyword; it is taken then."""
        if not self._words or not self._words[-1].is_keyword(text):
            return False
        self._words.pop()
        return True

    def _revision(self) -> int:
        if not self._keyword("rev"):
            return 0
        revision = _count(self._take("rev N"), "rev")
        if not revision:
            raise TxnTextError("rev is 0; the first revision is 1")
        return revision


def _key(word: Word) -> bytes:
    if not word.data:
        raise TxnTextError("the key is empty")
    return word.data


def _number(word: Word, name: str) -> int:
    digits = word.data.removeprefix(b"-")
    if word.quoted or not digits.isdigit() or len(digits) > 19 or not -(2**63) <= int(word.data) < 2**63:
        raise TxnTextError(f"{name} is {word.text[:40]!r}; expected a whole number of at most 64 bits")
    return int(word.data)


def _count(word: Word, name: str) -> int:
    number = _number(word, name)
    if number < 0:
        raise TxnTextError(f"{name} is {number}; expected 0 or more")
    return number


def _lease(word: Word, *, none_ok: bool = False) -> str:
    if none_ok and word.is_keyword(_NO_LEASE):
        return "0" * 16
    if _LEASE.fullmatch(word.text) is None:
        raise TxnTextError(f"the lease is {word.text[:40]!r}; expected 16 hexadecimal digits")
    return word.text


def _time(word: Word) -> float:
    seconds = parse_duration_s(word.text)
    if seconds is None:
        raise TxnTextError(f"{word.text[:40]!r} is not a time above 0: write 30s, 5m or 1h")
    return seconds
