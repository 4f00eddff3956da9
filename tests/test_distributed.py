"""What processes tell each other through the store; whole launches are in end_to_end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from mitune import distributed, leaving

# -- the store ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[distributed.Peers]]]:
    """``peers(ranks, patience)``: processes played by threads of this one, with a real store between them."""
    monkeypatch.setattr(distributed.leaving, "_asked", leaving._Asked())
    made: list[distributed.Peers] = []
    stores = []

    def make(ranks: int, patience: float = 60) -> list[distributed.Peers]:
        monkeypatch.setenv("MITUNE_PATIENCE", str(patience))
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        stores.append(store)  # it serves as long as it is held
        made.extend(distributed.Peers(store, rank, ranks) for rank in range(ranks))
        return made

    yield make
    for own in reversed(made):
        own.depart(0.0)


def at_once(made: list[distributed.Peers], work: Callable[[distributed.Peers], Any]) -> list[Any]:
    """What ``work`` gives for each, all at the same time."""
    with ThreadPoolExecutor(len(made)) as pool:
        return list(pool.map(work, made))


def test_items_are_dealt_once_and_to_whoever_is_free(peers: Any) -> None:
    made = peers(3)

    def work(own: distributed.Peers) -> list[int]:
        share = []
        for place in own.work_queue(12):
            share.append(place)
            time.sleep(0.5 if own.rank == 1 else 0.02)
        own.wait()
        return share

    shares = at_once(made, work)
    assert sorted(place for share in shares for place in share) == list(range(12))
    assert len(shares[1]) <= 2 < max(len(shares[0]), len(shares[2]))
    # And once more, with fewer items than processes.
    shares = at_once(made, lambda own: list(own.work_queue(1)))
    assert sorted(map(len, shares)) == [0, 0, 1]


def test_the_first_process_s_word_counts(peers: Any) -> None:
    made = peers(3)
    asked = []

    def ask(own: distributed.Peers) -> Any:
        def make() -> Any:
            asked.append(own.rank)
            return {"rank": own.rank, "loss": 0.1, "none": None}

        return own.broadcast(make)

    assert at_once(made, ask) == [{"rank": 0, "loss": 0.1, "none": None}] * 3
    assert asked == [0]


def test_nobody_passes_before_all_are_there(peers: Any) -> None:
    made = peers(3)
    here: list[int] = []

    def come(own: distributed.Peers) -> int:
        time.sleep(0.2 * own.rank)
        here.append(own.rank)
        own.wait()
        return len(here)

    assert at_once(made, come) == [3, 3, 3]


def test_who_ends_first_is_followed(peers: Any) -> None:
    first, second = peers(2)
    assert second.abandon(2, "a mistake") is None
    follow = first.abandon(1, "what came of it")
    assert (follow.code, follow.line) == (2, None)  # said by the other one, on the same node
    assert first.lost().code == 2
    deadline = time.monotonic() + 10
    while not leaving.asked() and time.monotonic() < deadline:  # its thread has heard of it too
        time.sleep(0.05)
    with pytest.raises(leaving.Leave) as caught:
        first.wait()
    assert caught.value.code == 2


def test_a_silent_process_is_given_up(peers: Any) -> None:
    first, second = peers(2, patience=2)
    at_once([first, second], lambda own: own.wait())
    second._over.set()  # it beats no more
    with pytest.raises(leaving.Leave, match="process 1 has not been heard of for 2 s") as caught:
        first.wait()
    assert caught.value.code == 1


def test_a_failed_collective_says_that_a_process_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_peers", lambda: None)
    with pytest.raises(leaving.Leave, match="another process was lost"), distributed.collective():
        raise RuntimeError("Connection closed by peer")
    with pytest.raises(torch.OutOfMemoryError), distributed.collective():
        raise torch.OutOfMemoryError("not this")


def test_one_process_alone_deals_itself_everything() -> None:
    assert list(distributed.work_queue("abc")) == [(0, "a"), (1, "b"), (2, "c")]
    assert distributed.broadcast(lambda: (1, 2)) == (1, 2)
    distributed.wait()
