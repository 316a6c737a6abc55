from __future__ import annotations

import threading

from adapters.encode_cache import EncodeCache
from tests.support.qwen_data import qwen_data, qwen_tokenizer

qwen_data()
TOKENIZER = qwen_tokenizer("qwen3")


def test_the_ids_are_those_of_the_tokenizer_each_time() -> None:
    cache = EncodeCache(TOKENIZER)
    for text in ("", "short", "<|im_start|>" + "long enough to be remembered, 世界 " * 5):
        for _ in range(3):
            ids = cache.encode(text)
            assert ids == TOKENIZER.encode(text)
            ids.append(0)  # what a caller does to its list stays the caller's
    assert len(cache) == 1


def test_it_stays_within_its_bound_and_forgets_the_oldest() -> None:
    cache = EncodeCache(TOKENIZER, max_chars=1_000)
    texts = [f"{i:03d} " * 25 for i in range(30)]
    for text in texts:
        cache.encode(texts[0])
        cache.encode(text)
    assert len(cache) == 10
    assert ("", texts[0]) in cache._ids
    assert ("", texts[1]) not in cache._ids
    cache.encode("x" * 251)
    assert len(cache) == 10


def test_salts_share_nothing() -> None:
    cache = EncodeCache(TOKENIZER)
    assert cache.encode("x" * 100, "a") == cache.encode("x" * 100, "b")
    assert len(cache) == 2


def test_several_threads() -> None:
    cache = EncodeCache(TOKENIZER, max_chars=2_000)
    texts = [f"{i} " * 40 for i in range(40)]
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(text for text in texts * 3 if cache.encode(text) != TOKENIZER.encode(text))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
