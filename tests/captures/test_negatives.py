from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haustra.captures.validation import keeps_negative


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds(sample_id: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert keeps_negative(sample_id, ratio=high) or not keeps_negative(sample_id, ratio=low)


@given(st.text())
def test_nothing_stays_of_0_and_all_of_1(sample_id: str) -> None:
    assert not keeps_negative(sample_id, ratio=0)
    assert keeps_negative(sample_id, ratio=1)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_share_is_met_on_average(ratio: float) -> None:
    kept = sum(keeps_negative(f"run/frame_{i:05d}", ratio=ratio) for i in range(5000))
    assert abs(kept / 5000 - ratio) < 0.02


def test_the_choice_is_the_names_sha256_in_0_to_1() -> None:
    position = int(sha256(b"run/frame_00000").hexdigest(), 16) / 2**256
    assert keeps_negative("run/frame_00000", ratio=position + 1e-6)
    assert not keeps_negative("run/frame_00000", ratio=position - 1e-6)
