"""Tokens that a Lark grammar names, in llguidance's spelling: `<|im_end|>`, `<[151645]>`, `<[1,5-9]>`, `<[^7]>`.

A grammar is compiled for trial without the model, over an alphabet of bytes and few tokens more, of which one stands
in for those that are named. Whether the model has them is seen where its tokenizer is.
"""

from __future__ import annotations

import re

from engine.errors import RequestError
from engine.request import GrammarSpec
from engine.text.tokenizer import Tokenizer

STAND_IN = "<think>"
STAND_IN_ID = 257
"""A token, and the id of one, in the alphabet of trials."""
MAX_DIGITS = 9

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"?'  # strings, comments and expressions may look as if they named one
    r"|(?://|\#)[^\n]*"
    r"|/(?:\\.|[^/\\])*/?"
    r"|(?P<token><[^<>\s]+>)",
    re.DOTALL,
)
_NUMBER = re.compile(r"[0-9]+")


def with_stand_in(lark: str) -> str:
    """The grammar with the stand-in for every token that it names."""
    return _TOKEN.sub(lambda match: _stand_in(match["token"]) if match["token"] else match[0], lark)


def check_named_tokens(spec: GrammarSpec, tokenizer: Tokenizer) -> None:
    """Raises RequestError, with the grammar's param, for a name or an id that the model does not have."""
    if spec.kind != "lark" or "<" not in spec.text:
        return
    for match in _TOKEN.finditer(spec.text):
        token = match["token"]
        if token is None:
            continue
        if token.startswith("<["):
            known = all(_id(number) < tokenizer.vocab_size for number in _NUMBER.findall(token))
        else:
            known = token in tokenizer.added_tokens
        if not known:
            message = f"Invalid grammar specification: this model has no token {token}."
            raise RequestError(message, spec.param)


def _stand_in(token: str) -> str:
    """Ids keep their form, so that a wrong one is still found."""
    if not token.startswith("<["):
        return STAND_IN
    return _NUMBER.sub(lambda number: str(min(_id(number[0]), STAND_IN_ID)), token)


def _id(digits: str) -> int:
    return int(digits[: MAX_DIGITS + 1])
