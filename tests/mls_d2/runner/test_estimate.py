"""Schedules worked out by hand."""

from mls_d2.runner.estimate import estimate

SECONDS = {"long": 10.0, "short": 4.0}


def cell(family, needs=None):
    # Cells are compared by identity, as the real ones are.
    return type("Cell", (), {"family": family, "needs": needs})()


def test_one_at_a_time_is_the_sum():
    assert estimate([cell("long"), cell("short"), cell("short")], SECONDS, 1).seconds == 18


def test_two_at_a_time_share():
    # 10 beside 4 + 4
    assert estimate([cell("long"), cell("short"), cell("short")], SECONDS, 2).seconds == 10


def test_what_needs_another_waits_for_it():
    source = cell("long")
    assert estimate([cell("short", source), source], SECONDS, 8).seconds == 14


def test_what_runs_already_has_less_to_go():
    running = cell("long")
    assert estimate([running], SECONDS, 1, elapsed={running: 7.5}).seconds == 2.5
    assert estimate([running], SECONDS, 1, elapsed={running: 70}).seconds == 0


def test_unknown_lengths_are_counted_and_said():
    some = estimate([cell("long"), cell("new"), cell("new")], SECONDS, 2)
    assert (some.seconds, some.unknown) == (10, 2)
    assert str(some) == "about 0:00:10 and 2 of unknown length"
    assert str(estimate([cell("new")], SECONDS, 1)) == "time unknown"
    assert str(estimate([], SECONDS, 1)) == "no time"
