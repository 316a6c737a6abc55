"""The official client, asynchronous: many at once, and one that leaves early."""

from __future__ import annotations

import asyncio

import httpx
import openai

from compat_tests.cases import HELLO


async def test_many_at_once_equal_one_alone(async_client: openai.AsyncOpenAI, model: str) -> None:
    prompts = [f"Count from {start} to {start + 4}." for start in range(12)]

    async def ask(prompt: str) -> str | None:
        reply = await async_client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0.8, seed=5, max_tokens=24
        )
        return reply.choices[0].message.content

    together = await asyncio.gather(*map(ask, prompts))
    alone = [await ask(prompt) for prompt in prompts[:3]]
    assert together[:3] == alone


async def test_leaving_early_frees_the_engine(async_client: openai.AsyncOpenAI, base_url: str, model: str) -> None:
    stream = await async_client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()
    async with httpx.AsyncClient(base_url=base_url) as http:
        for _ in range(50):
            text = (await http.get("/metrics")).text
            running = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
            if running and float(running[0].rsplit(" ", 1)[1]) == 0:
                return
            await asyncio.sleep(0.1)
    raise AssertionError("the request still runs five seconds after its client left")
