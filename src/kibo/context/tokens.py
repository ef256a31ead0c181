"""Tokenizers: what counts the tokens of a prompt, by name.

The default needs nothing and knows no vocabulary, and errs on the side of too many: see `kibo.context.estimating`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kibo.context.estimating import estimate
from kibo.model.errors import ContextInvalid, HostUnsupported

#: The name of the default; another rule would be another name, since prompts depend on it.
ESTIMATE: Final = "kibo-estimate-2"
_TIKTOKEN: Final = "tiktoken:"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What counts tokens.

    Attributes:
        name: What reports call it. Two that count differently need two names.
        count: Returns how many tokens a text has. It must always say the same of the same text.
    """

    name: str
    count: Callable[[str], int]


def tokenizer(named: str | Tokenizer = ESTIMATE) -> Tokenizer:
    """Finds a tokenizer.

    Args:
        named: ``"kibo-estimate-2"``; ``"tiktoken:"`` and the name of one of its encodings, where that is installed and
            has its data; or one of the caller's own.

    Raises:
        ContextInvalid: There is none of that name.
        HostUnsupported: tiktoken is not installed, or cannot get its data.
    """
    if isinstance(named, Tokenizer):
        return named
    if named == ESTIMATE:
        return Tokenizer(ESTIMATE, estimate)
    if named.startswith(_TIKTOKEN):
        return _tiktoken(named.removeprefix(_TIKTOKEN))
    raise ContextInvalid(
        f"there is no tokenizer {named!r}",
        hint=f"Use {ESTIMATE}, {_TIKTOKEN}o200k_base, or Tokenizer(name, count) of your own.",
    )


@functools.cache
def _tiktoken(encoding: str) -> Tokenizer:
    try:
        import tiktoken  # type: ignore[import-not-found,unused-ignore]  # optional
    except ModuleNotFoundError as error:
        raise HostUnsupported(
            "tiktoken is not installed", hint=f"pip install tiktoken, or use {ESTIMATE}."
        ) from error
    try:
        found = tiktoken.get_encoding(encoding)
    except ValueError as error:
        raise ContextInvalid(f"tiktoken has no encoding {encoding!r}", hint="Such as o200k_base.") from error
    except Exception as error:  # whatever its downloads raise
        raise HostUnsupported(
            f"tiktoken cannot get the data of {encoding}: {error}",
            hint=f"It downloads them once; TIKTOKEN_CACHE_DIR names where they are. Or use {ESTIMATE}.",
        ) from error
    return Tokenizer(f"{_TIKTOKEN}{encoding}", lambda text: len(found.encode(text, disallowed_special=())))
