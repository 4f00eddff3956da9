"""Seeds depend on what they may; noise is each candidate's own."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.sampling.seeds import NoiseStreams, candidate_noise, candidate_seed

CPU = torch.device("cpu")


def test_seed_is_fixed_for_ever():
    # A change here makes every stored candidate impossible to draw again.
    assert candidate_seed(0, "a red circle", 3) == 1780916769344780326


@given(st.integers(0, 2**31), st.text(max_size=20), st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_seed_is_63_bits_and_tells_apart(run_seed, prompt, index):
    seed = candidate_seed(run_seed, prompt, index)
    assert 0 <= seed < 2**63
    assert (
        len(
            {
                seed,
                candidate_seed(run_seed + 1, prompt, index),
                candidate_seed(run_seed, prompt + "x", index),
                candidate_seed(run_seed, prompt, index + 1),
            }
        )
        == 4
    )


def test_seed_parts_do_not_run_together():
    assert candidate_seed(1, "2 cats", 3) != candidate_seed(13, "2 cats", 3)
    assert candidate_seed(0, "1", 1) != candidate_seed(0, "11", 0)


def test_noise_of_fewer_steps_is_a_prefix():
    long = candidate_noise(7, (4, 3, 3), 10)
    assert long.shape == (11, 4, 3, 3)
    assert long.dtype == torch.float32
    assert torch.equal(candidate_noise(7, (4, 3, 3), 2), long[:3])
    assert not torch.equal(candidate_noise(8, (4, 3, 3), 0), long[:1])


def test_streams_draw_what_each_candidate_would_alone():
    streams = NoiseStreams([5, 6, 7], (4, 8), CPU, torch.float32)
    drawn = torch.stack([streams.next() for _ in range(4)], dim=1)
    for row, seed in zip(drawn, (5, 6, 7), strict=True):
        assert torch.equal(row, candidate_noise(seed, (4, 8), 3))


def test_streams_follow_survivors_and_copies_never_share_noise():
    streams = NoiseStreams([5, 6, 7], (4,), CPU, torch.float32)
    streams.next()
    streams.select([2, 2, 0])
    assert streams.seeds == [7, 6, 5]  # the copy of row 2 took over the stream of row 1, which died
    noise = streams.next()
    assert torch.equal(noise, torch.stack([candidate_noise(seed, (4,), 1)[1] for seed in (7, 6, 5)]))
    streams.select([0, 0, 0, 0, 1, 2])  # more copies than the dead leave streams for
    assert len(set(streams.seeds)) == 6
    noise = streams.next()
    assert len({tuple(row.tolist()) for row in noise}) == 6
