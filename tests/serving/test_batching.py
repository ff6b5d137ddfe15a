"""Images that come together are computed together, and each gets its own answer."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_adavit.serving import batching
from keras_adavit.serving.batching import Batcher
from keras_adavit.serving.refusals import Refusal


def run_with(run, use, max_batch=4):
    """What the coroutine function `use` of a working batcher returns, and the sizes of the batches."""
    sizes = []

    async def work():
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(run, executor, max_batch, 0.05, sizes.append)
            task = asyncio.create_task(batcher.work())
            found = await use(batcher)
            task.cancel()
        return found

    return asyncio.run(work()), sizes


def double(images):
    return {"double": 2 * images}


def submit_all(*numbers):
    return lambda batcher: asyncio.gather(
        *(batcher.submit(np.full(2, number)) for number in numbers), return_exceptions=True
    )


def test_images_share_batches_and_keep_their_answers():
    found, sizes = run_with(double, submit_all(*range(11)))
    assert [each["double"].tolist() for each in found] == [[2 * number] * 2 for number in range(11)]
    assert sizes == [4, 4, 3]


def test_an_error_is_of_its_batch_alone():
    def run(images):
        if (images == 5).any():
            raise ValueError("five")
        return double(images)

    found, _ = run_with(run, submit_all(*range(8)))
    assert [isinstance(each, ValueError) for each in found] == [False] * 4 + [True] * 4


def test_who_has_gone_is_not_waited_for():
    async def use(batcher):
        tasks = [asyncio.create_task(batcher.submit(np.full(2, number))) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found, sizes = run_with(double, use)
    assert sizes == [2]
    assert [found[0]["double"][0], found[2]["double"][0]] == [0, 4]


def test_too_many_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(batching, "MOST_WAITING", 5)
    found, _ = run_with(double, submit_all(*range(7)))
    refused = [each for each in found if isinstance(each, Refusal)]
    assert [each.status for each in refused] == [503, 503]
    with pytest.raises(Refusal, match="At most 5 photos can wait"):
        raise refused[0]
