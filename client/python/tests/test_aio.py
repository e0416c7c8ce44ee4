"""The asyncio variants, against a server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest
from conftest import Server

import noised.aio

LANES = 1_000_000


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def test_steps_of_several_sessions_are_under_way_at_once(shared_server: Server) -> None:
    async def one(client: noised.aio.AsyncClient, value: float) -> float:
        ones = np.full(3000, value, np.float32)
        async with await client.create_session(noised.prefix_sum(), ones) as session:
            for _ in range(5):
                answer = await session.multiply_next(ones)
            assert session.step == 5
            return float(answer[0])

    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        found = await asyncio.gather(*(one(client, float(i)) for i in range(8)))
        assert found == [5.0 * i for i in range(8)]

    run(main())


def test_a_session_lives_as_its_blocking_twin(shared_server: Server) -> None:
    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        params = np.zeros(100, np.float32)
        session = await client.create_session(noised.prefix_sum(), params, noised.Gaussian(1.0))
        first, second = await session.fetch(), await session.fetch()
        state = await session.state()
        await session.rewind(1)
        np.testing.assert_array_equal(await session.fetch(), second)
        await session.refresh()
        assert (await session.info())[0]["rewind_count"] >= 1
        again = await noised.aio.resume(state, params)
        assert again.step == 2
        np.testing.assert_array_equal(again.blocking.fetch(2).shape, first.shape)
        name = again.blocking.name
        assert (await client.get_session(name))["next_step"] >= 3
        assert name in [found["name"] for found in await client.list_sessions()]
        await again.delete()
        await session.close()
        with pytest.raises(noised.errors.SessionNotFoundError):
            await client.open_session(name)
        gradients = np.ones(10, np.float32)
        async with await client.create_session(
            noised.identity(), gradients, noised.Privatize(0.0)
        ) as private:
            np.testing.assert_array_equal(await private.privatize(gradients), gradients)

    run(main())


KEY = bytes(range(32))


@pytest.mark.parametrize("ahead", [True, False])
def test_a_cancelled_task_loses_no_noise(shared_server: Server, ahead: bool) -> None:
    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        params = np.zeros(2000, np.float32)
        source = noised.Gaussian(1.0, noise_key=KEY)
        with client.blocking.create_session(noised.prefix_sum(), params, source) as whole:
            expected = [whole.fetch() for _ in range(60)]
        async with await client.create_session(
            noised.prefix_sum(), params, source, fetch_ahead=ahead
        ) as session:
            cancelled = 0
            for t in range(60):
                noise = None
                while noise is None:
                    try:
                        noise = await asyncio.wait_for(session.fetch(), 0.0001 * (1 + cancelled % 7))
                    except asyncio.TimeoutError:
                        cancelled += 1
                np.testing.assert_array_equal(noise, expected[t])
                assert session.step == t + 1
                if t % 10 == 9:
                    await session.state()
        assert cancelled > 0

    run(main())


def test_a_step_that_was_kept_is_put_back_when_the_session_closes(shared_server: Server) -> None:
    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        params = np.zeros(2000, np.float32)
        source = noised.Gaussian(1.0, noise_key=KEY)
        session = await client.create_session(noised.prefix_sum(), params, source, id="test-kept")
        first = await session.fetch()
        session._kept = (0, first)
        with pytest.raises(noised.errors.WrongStepError):
            await session.fetch(step=5)
        assert session.step == 0
        await session.close()
        again = await client.open_session("test-kept", params)
        np.testing.assert_array_equal(await again.fetch(step=0), first)
        await again.delete()

    run(main())


def test_a_cancelled_task_puts_no_gradient_under_two_steps(shared_server: Server) -> None:
    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        gradients = [np.full(2000, float(t), np.float32) for t in range(60)]
        source = noised.Privatize(1.0, noise_key=KEY)
        with client.blocking.create_session(noised.prefix_sum(), gradients[0], source) as whole:
            expected = [whole.privatize(gradient) for gradient in gradients]
        async with await client.create_session(noised.prefix_sum(), gradients[0], source) as session:
            cancelled = 0
            for t, gradient in enumerate(gradients):
                noisy = None
                while noisy is None:
                    try:
                        noisy = await asyncio.wait_for(
                            session.privatize(gradient), 0.0001 * (1 + cancelled % 7)
                        )
                    except asyncio.TimeoutError:
                        cancelled += 1
                np.testing.assert_array_equal(noisy, expected[t])
        assert cancelled > 0

    run(main())


def test_what_is_made_for_a_cancelled_task_is_not_left_behind(shared_server: Server) -> None:
    async def main() -> None:
        client = await noised.aio.connect(shared_server.target)
        params = np.zeros(10, np.float32)
        before = len(await client.list_sessions())
        for patience in (0.0, 0.0001, 0.0005, 0.001):
            with contextlib.suppress(asyncio.TimeoutError):
                session = await asyncio.wait_for(client.create_session(noised.identity(), params), patience)
                await session.close()
        assert len(await client.list_sessions()) == before

    run(main())


@pytest.mark.parametrize("source", [noised.Input(), noised.Gaussian(1.0)])
def test_a_cancelled_task_leaves_the_session_usable(server: Server, source: noised.sources.Source) -> None:
    async def main() -> None:
        client = await noised.aio.connect(server.target)
        ones = np.ones(LANES, np.float32)
        async with await client.create_session(noised.prefix_sum(), ones, source) as session:

            async def step() -> Any:
                return await (
                    session.fetch() if isinstance(source, noised.Gaussian) else session.multiply_next(ones)
                )

            await step()
            server.pause()

            # With one that was fetched ahead, the second is the one that waits.
            async def two() -> None:
                await step()
                await step()

            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(two(), 0.5)
            server.proceed()
            taken = [await step() for _ in range(4)]
            first = session.step - 4
            await session.rewind(first) if isinstance(source, noised.Gaussian) else None
            for t, answer in enumerate(taken):
                again = (
                    await session.fetch() if isinstance(source, noised.Gaussian) else (first + t + 1) * ones
                )
                np.testing.assert_array_equal(answer, again)

    run(main())
