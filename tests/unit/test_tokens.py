"""What counts tokens: the estimate, held against the real thing, and tiktoken itself with its data at hand."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from contexts import context
from corpus import MOST, texts
from kibo.branch.history import History
from kibo.context.estimating import estimate
from kibo.context.tokens import Tokenizer, _tiktoken, tokenizer
from kibo.model.errors import ContextInvalid, HostUnsupported
from kibo.store.database import Store

#: Where tiktoken gets its data: a file in its cache is called by the digest of that.
ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
NAMES = [name for name, _, _ in texts()]


@pytest.fixture(scope="module")
def o200k(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    """tiktoken with the data of o200k_base, of which tiktoken checks the digest; bpe-openai brings the same file."""
    place = tmp_path_factory.mktemp("tiktoken")
    packed = distribution("bpe-openai").locate_file("bpe_openai/data/o200k_base.tiktoken.gz")
    data = gzip.decompress(Path(str(packed)).read_bytes())
    (place / hashlib.sha1(ADDRESS.format("o200k_base").encode()).hexdigest()).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(place))
        yield tokenizer("tiktoken:o200k_base")


@pytest.mark.parametrize(("name", "kind", "text"), texts(), ids=NAMES)
def test_an_estimate_is_never_below_what_there_is_and_not_far_above(
    o200k: Tokenizer, name: str, kind: str, text: str
) -> None:
    real = o200k.count(text)
    assert real <= estimate(text) <= MOST[kind] * real + 2


def test_an_estimate_of_parts_is_never_below_that_of_the_whole() -> None:
    """So that what was counted line by line fits, however it is put together."""
    for name, _, text in texts():
        parts = text.splitlines(keepends=True)
        assert sum(map(estimate, parts)) >= estimate(text), name


def test_a_prompt_is_within_its_budget_by_tiktoken(o200k: Tokenizer, tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/history.db") as store:
        history = History(store)
        ctx = context(history, history.create().id)
        ctx.system("Be brief.")
        for _, _, text in texts():
            ctx.user(text[:400] + ".")
        for named in (o200k, "kibo-estimate-2"):
            made = ctx.prompt(3000, format="openai", tokenizer=named)
            assert made.dropped
            assert o200k.count("".join(message["content"] for message in made.messages)) <= 3000


def test_text_that_looks_like_a_special_token_is_counted_as_text(o200k: Tokenizer) -> None:
    assert o200k.name == "tiktoken:o200k_base"
    assert o200k.count("<|endoftext|>") > 1


def test_tiktoken_without_its_data_or_without_such_an_encoding_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _tiktoken.cache_clear()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(HostUnsupported, match="data of p50k_base") as refused:
        tokenizer("tiktoken:p50k_base")
    assert "TIKTOKEN_CACHE_DIR" in refused.value.hint
    with pytest.raises(ContextInvalid, match="no encoding"):
        tokenizer("tiktoken:none")
