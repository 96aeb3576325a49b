import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haustra.warehouse.order import epoch_order

shard_sizes = st.lists(st.integers(1, 40), max_size=12)
seeds = st.integers(0, 2**32 - 1)
windows = st.integers(1, 200)


@given(shard_sizes, seeds, st.integers(0, 1000), windows)
def test_an_epoch_has_every_sample_once_and_repeats(
    sizes: list[int], seed: int, epoch: int, window_size: int
) -> None:
    order = epoch_order(sizes, seed=seed, epoch=epoch, window_size=window_size)
    assert sorted(order.samples) == list(range(sum(sizes)))
    again = epoch_order(sizes, seed=seed, epoch=epoch, window_size=window_size)
    np.testing.assert_array_equal(order.samples, again.samples)


@given(shard_sizes, seeds, windows)
def test_a_window_has_all_samples_of_its_shards_and_no_other(
    sizes: list[int], seed: int, window_size: int
) -> None:
    order = epoch_order(sizes, seed=seed, epoch=0, window_size=window_size)
    firsts = np.cumsum((0, *sizes))
    stop = 0
    for number, window in enumerate(order.windows):
        assert window.start == stop
        stop = window.stop
        expected = [i for shard in window.shards for i in range(firsts[shard], firsts[shard + 1])]
        assert window.members.tolist() == sorted(expected)
        assert sorted(order.samples[window.start : window.stop]) == sorted(expected)
        assert len(expected) <= window_size or len(window.shards) == 1
        for position in (window.start, window.stop - 1):
            assert order.window_at(position) == number
    assert stop == len(order) == sum(sizes)
    assert sorted(s for window in order.windows for s in window.shards) == [*range(len(sizes))]


@pytest.mark.parametrize("window_size", [10, 1000])
def test_another_seed_or_epoch_gives_another_order(window_size: int) -> None:
    sizes = [9] * 20

    def samples(*, seed: int, epoch: int) -> bytes:
        order = epoch_order(sizes, seed=seed, epoch=epoch, window_size=window_size)
        return order.samples.tobytes()

    assert samples(seed=0, epoch=0) != samples(seed=1, epoch=0)
    assert samples(seed=0, epoch=0) != samples(seed=0, epoch=1)


def test_shards_come_in_another_order_each_epoch() -> None:
    first = [epoch_order([9] * 20, seed=0, epoch=e, window_size=9).windows[0] for e in range(10)]
    assert len({window.shards for window in first}) > 3


def test_what_fits_one_window_is_shuffled_as_a_whole() -> None:
    order = epoch_order([5, 7, 3], seed=4, epoch=2, window_size=15)
    assert len(order.windows) == 1
    np.testing.assert_array_equal(order.samples, np.random.default_rng([4, 2]).permutation(15))
