"""Event loops: results that are awaited, executors, and loops that are never held up."""

import asyncio
import itertools
from contextlib import aclosing

import pytest
from helpers import add_all, fail_on, hold, increment, mark, pid, record, wait_at, wait_for

import parallelkit as pk

ONE_START_METHOD = True


async def listed(results):
    return [result async for result in results]


async def until(condition):
    """Let the loop run until something holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


# ---- aimap ---------------------------------------------------------------------------------------


@pytest.mark.each_start_method
def test_results_in_order(pool):
    """aimap gives what map gives, for several inputs and frozen keywords."""
    results = listed_now(pool().aimap, add_all, range(100), range(100), p=1000)
    assert results == [1000 + 2 * i for i in range(100)]


def listed_now(call, *args, **keywords):
    async def main():
        return await listed(call(*args, **keywords))

    return asyncio.run(main())


def test_no_items_at_all(pool):
    """An empty input is an empty iterator."""
    assert listed_now(pool().aimap, increment, []) == []
    assert listed_now(pool().aimap, increment, iter([])) == []


def test_asynchronous_inputs(concurrent_pool):
    """Inputs may be asynchronous iterables, also beside ordinary ones."""

    async def slowly():
        for i in range(20):
            await asyncio.sleep(0)
            yield i

    async def main():
        return await listed(concurrent_pool().aimap(add_all, slowly(), range(20)))

    assert asyncio.run(main()) == [2 * i for i in range(20)]


def test_an_asynchronous_input_that_fails(concurrent_pool):
    """What an asynchronous input raises comes after the results before it."""

    async def broken():
        yield 1
        raise KeyError("input")

    async def main():
        got = []
        with pytest.raises(KeyError, match="input"):
            async for result in concurrent_pool().aimap(increment, broken()):
                got.append(result)  # noqa: PERF401 - what comes before the error counts
        return got

    assert asyncio.run(main()) == [2]


def test_an_error_in_its_place(pool):
    """An item's error is raised after the results before it, and ends the iterator."""

    async def main():
        got, results = [], pool(chunksize=1).aimap(fail_on, range(10), bad=[5])
        with pytest.raises(ValueError, match="bad item 5"):
            async for result in results:
                got.append(result)  # noqa: PERF401 - what comes before the error counts
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        return got

    assert asyncio.run(main()) == [0, 10, 20, 30, 40]


def test_bad_input_is_an_error(concurrent_pool):
    """What cannot be iterated is a TypeError, when the first result is awaited."""
    with pytest.raises(TypeError, match="cannot be iterated"):
        listed_now(concurrent_pool().aimap, increment, 5)


def test_outside_of_a_loop(thread_pool):
    """aimap needs a running event loop, and says so."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        thread_pool().aimap(increment, [1])


def test_bounded_in_flight_and_closed_early(pool):
    """An endless input is drawn a bounded number of items ahead; closing the iterator ends the call."""
    drawn = itertools.count()

    async def main():
        async with aclosing(pool(chunksize=1).aimap(increment, drawn)) as results:
            got = [await anext(results) for _ in range(5)]
        with pytest.raises(StopAsyncIteration):
            await anext(results)
        return got

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]
    assert next(drawn) < 1000


def test_a_loop_that_is_left_ends_the_call(concurrent_pool):
    """After a break nothing refers to the iterator any more, which gives the workers back."""
    own = concurrent_pool()

    async def main():
        async for result in own.aimap(increment, itertools.count()):
            if result == 3:
                break
        return await listed(own.aimap(increment, range(3)))

    assert asyncio.run(main()) == [1, 2, 3]


def test_cancelling_the_task_ends_what_runs(process_pool, folder):
    """Items that would never end are given up when the task that waits for them is cancelled."""
    own = process_pool(chunksize=1)

    async def main():
        task = asyncio.create_task(listed(own.aimap(hold, range(4), folder=folder)))
        await until(lambda: (folder / "held-0").exists() and (folder / "held-1").exists())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await listed(own.aimap(increment, range(4)))  # on the same workers

    assert asyncio.run(main()) == [1, 2, 3, 4]
    assert not (folder / "held-2").exists()


def test_terminate_ends_it(process_pool, folder):
    """terminate() of the pool ends an aimap with a ParallelError."""
    own = process_pool()

    async def main():
        task = asyncio.create_task(listed(own.aimap(hold, [0], folder=folder)))
        await until((folder / "held-0").exists)
        await asyncio.to_thread(own.terminate)
        with pytest.raises(pk.ParallelError, match="terminated"):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("way", ["aimap", "submit", "executor"])
def test_the_loop_goes_on(concurrent_pool, folder, way):
    """Items wait for what the loop does while it awaits them, from a cold start on: it is not held up."""
    pk.shutdown()
    own, gate = concurrent_pool(), folder / "gate"
    options = {"backend": concurrent_pool.backend, "start_method": concurrent_pool.start_method}

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(mark, folder, "gate")
        if way == "aimap":
            await listed(own.aimap(wait_for, [gate, gate]))
        elif way == "submit":
            await asyncio.wrap_future(own.submit(wait_for, gate))
        else:
            executor = pk.PoolExecutor(2, **options)
            await loop.run_in_executor(executor, wait_for, gate)
            executor.shutdown()

    asyncio.run(main())


# ---- futures -------------------------------------------------------------------------------------


def test_run_in_executor(concurrent_pool):
    """An executor serves loop.run_in_executor; many calls may be awaited at once."""
    options = {"backend": concurrent_pool.backend, "start_method": concurrent_pool.start_method}

    async def main():
        loop = asyncio.get_running_loop()
        with pk.PoolExecutor(2, **options) as executor:
            calls = [loop.run_in_executor(executor, increment, i) for i in range(20)]
            with pytest.raises(ValueError, match="bad item 1"):
                await loop.run_in_executor(executor, fail_on, 1, [1])
            return await asyncio.gather(*calls)

    assert asyncio.run(main()) == list(range(1, 21))


def test_cancelling_a_task_cancels_its_item(concurrent_pool, folder):
    """An item that has not been begun is not run when the task that awaits it is cancelled."""
    own = concurrent_pool()

    async def main():
        busy = [own.submit(wait_at, folder / "gate", i) for i in range(2)]
        await until(lambda: all((folder / f"gate-{i}").exists() for i in range(2)))
        task = asyncio.create_task(awaited(own.submit(record, 1, folder)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        mark(folder, "gate")
        await asyncio.gather(*map(asyncio.wrap_future, busy))
        await asyncio.wrap_future(own.submit(pid))

    asyncio.run(main())
    assert not (folder / "ran-1").exists()


async def awaited(future):
    return await asyncio.wrap_future(future)
