"""The door and the clock: what enters a VM, in which order, and again."""

import time
from collections.abc import Callable, Iterator

import pytest

from vmm.devices.keymap import KeyStroke
from vmm.door import QUEUE_MAX, Clock, Door, DoorLog, ReplayEnd

A, B, SHIFT_C = KeyStroke("a"), KeyStroke("b"), KeyStroke("c", ("LeftShift",))


def host(*times: int) -> Callable[[], int]:
    """A host clock that reads these times, one after the other."""
    left: Iterator[int] = iter(times)
    return lambda: next(left)


# --- queues ------------------------------------------------------------------------------------------------------


def test_what_was_posted_comes_in_order_as_far_as_there_is_room() -> None:
    door = Door()
    door.post_keys([A, B, SHIFT_C])
    door.post_serial(b"hello")
    assert door.look(1, 2) == ([A], b"he")
    assert door.look(0, 0) == ([], b"")
    assert door.look(9, 1) == ([B, SHIFT_C], b"l")
    assert door.look(9, 9) == ([], b"lo")
    assert door.look(9, 9) == ([], b"")


def test_the_backlog_counts_serial_bytes_that_wait() -> None:
    door = Door()
    door.post_serial(b"hello")
    door.look(0, 2)
    assert door.serial_backlog == 3


def test_nothing_is_lost_up_to_the_bound() -> None:
    door = Door()
    data = bytes(n & 0xFF for n in range(QUEUE_MAX))
    for at in range(0, QUEUE_MAX, 16):
        door.post_serial(data[at : at + 16])
    door.post_keys([A, B] * (QUEUE_MAX // 2))
    keys, serial = door.look(QUEUE_MAX, QUEUE_MAX)
    assert (keys, serial) == ([A, B] * (QUEUE_MAX // 2), data)


def test_queues_are_bounded_and_what_comes_on_top_is_refused() -> None:
    door = Door()
    assert door.post_serial(b"1" * (QUEUE_MAX - 1)) == QUEUE_MAX - 1
    assert (door.post_serial(b"23"), door.post_serial(b"3")) == (1, 0)
    assert (door.post_keys([A] * (QUEUE_MAX + 1)), door.post_keys([B])) == (QUEUE_MAX, 0)
    keys, serial = door.look(2 * QUEUE_MAX, 2 * QUEUE_MAX)
    assert (keys, serial) == ([A] * QUEUE_MAX, b"1" * (QUEUE_MAX - 1) + b"2")


# --- log and replay ----------------------------------------------------------------------------------------------


def recorded() -> tuple[DoorLog, list[object]]:
    """A log of a little of everything, and what the VM saw."""
    door = Door(host(1000, 1005, 1100))
    log = door.record()
    door.post_keys([A, SHIFT_C])
    door.post_serial(b"\x00\xff")
    seen: list[object] = [door.now(), door.look(1, 9), door.wall_clock(), door.now()]
    door.note_run(17)
    seen += [door.look(9, 9), door.look(9, 9)]
    door.note_run(0)
    seen += [door.now()]
    return log, seen


def test_replay_gives_what_was_recorded() -> None:
    log, seen = recorded()
    door = Door(host())  # the host's clock is not asked
    door.replay(log)
    door.post_keys([B])  # and what is posted stays outside
    door.post_serial(b"x")
    again: list[object] = [door.now(), door.look(1, 9), door.wall_clock(), door.now()]
    assert door.planned_run() == 17
    again += [door.look(9, 9), door.look(9, 9)]
    assert door.planned_run() == 0
    again += [door.now()]
    assert again == seen


@pytest.mark.parametrize(
    "ask", [pytest.param(Door.now, id="now"), pytest.param(Door.wall_clock, id="wall_clock"),
            pytest.param(Door.planned_run, id="planned_run")]
)  # fmt: skip
def test_a_log_that_has_nothing_more_ends_the_replay(ask: Callable[[Door], object]) -> None:
    door = Door()
    door.replay(DoorLog())
    with pytest.raises(ReplayEnd):
        ask(door)


def test_looks_beyond_the_log_find_nothing() -> None:
    door = Door()
    door.replay(DoorLog())
    assert door.look(9, 9) == ([], b"")


def test_the_log_is_made_of_plain_values() -> None:
    log, _ = recorded()
    assert log.inputs == [(1, "key", ["a", []]), (1, "serial", "00ff"), (2, "key", ["c", ["LeftShift"]])]
    assert log.runs == [17, 0]
    assert [log.times[0], *log.times[2:]] == [1000, 1005, 1100]


def test_only_a_replay_plans_runs() -> None:
    door = Door()
    assert (door.is_replaying, door.planned_run()) == (False, None)
    door.replay(DoorLog())
    assert door.is_replaying


# --- the clock ---------------------------------------------------------------------------------------------------


def test_virtual_time_begins_at_zero_and_follows_the_host() -> None:
    clock = Clock(Door(host(5000, 5000, 5007)))
    assert (clock.now(), clock.now()) == (0, 7)


def test_virtual_time_never_goes_back() -> None:
    clock = Clock(Door(host(0, 50, 40, 60)))
    assert [clock.now() for _ in range(3)] == [50, 50, 60]


def test_last_is_what_was_seen_and_asks_nobody() -> None:
    clock = Clock(Door(host(0, 50)))
    clock.now()
    assert (clock.last, clock.last) == (50, 50)


def test_a_glance_shows_the_time_and_leaves_no_trace() -> None:
    door = Door(host(0, 50, 60))
    clock, log = Clock(door), door.record()
    assert (clock.glance(), clock.last, log.times) == (50, 0, [])
    assert (clock.now(), log.times) == (60, [60])


def test_a_glance_in_a_replay_shows_what_the_machine_has_seen() -> None:
    door = Door(host())
    door.replay(DoorLog(times=[5, 25]))
    clock = Clock(door)
    assert (clock.glance(), clock.now(), clock.glance()) == (0, 20, 20)


def test_skip_jumps_ahead_and_time_goes_on_from_there() -> None:
    clock = Clock(Door(host(0, 10, 11, 30)))
    clock.skip_to(1_000_000)
    assert clock.last == 1_000_000
    assert [clock.now(), clock.now()] == [1_000_001, 1_000_020]


def test_skip_never_jumps_back() -> None:
    clock = Clock(Door(host(0, 100, 101)))
    clock.skip_to(50)
    assert clock.now() == 101


def test_set_continues_from_there() -> None:
    clock = Clock(Door(host(0, 700, 705)))
    clock.set(123)
    assert (clock.last, clock.now()) == (123, 128)


# --- the origin ----------------------------------------------------------------------------------------------------


def test_virtual_time_is_the_hosts_less_the_origin_until_it_jumps() -> None:
    clock = Clock(Door())
    for jump in (lambda: None, lambda: clock.skip_to(1 << 50), lambda: clock.set(12345)):
        jump()
        origin, before = clock.host_origin, time.monotonic_ns()
        assert origin is not None
        assert before - origin <= clock.now() <= time.monotonic_ns() - origin


def test_where_others_have_to_know_who_asked_there_is_no_origin() -> None:
    assert Clock(Door(host(5, 6, 7))).host_origin is None
    recorded, replayed = Door(), Door()
    log = recorded.record()
    assert Clock(recorded).host_origin is None
    replayed.replay(log)
    assert Clock(replayed).host_origin is None
