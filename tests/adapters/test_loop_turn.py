from __future__ import annotations

import asyncio
import time

from adapters.patience import LoopTurn


async def test_a_long_turn_is_shared_with_others() -> None:
    turn = LoopTurn(most_s=0.002)
    ticks = 0

    async def others() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    for _ in range(40):
        await turn.share()
        time.sleep(0.001)
    task.cancel()
    assert 8 <= ticks <= 40


async def test_a_short_turn_is_not_given_away() -> None:
    turn = LoopTurn(most_s=10.0)
    ticks = []
    asyncio.get_running_loop().call_soon(ticks.append, 1)
    for _ in range(100):
        await turn.share()
    assert not ticks
    await asyncio.sleep(0)
    assert ticks and turn._began_s == 0.0
