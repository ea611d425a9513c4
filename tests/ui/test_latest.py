"""The last input of a session, whatever the order in which its requests arrive."""

from types import SimpleNamespace

import pytest

from brainmri.ui.latest import Latest, Superseded, latest_of


def test_an_input_is_replaced_by_what_is_given_or_selected_after_it():
    latest = Latest()
    assert not latest.replaced(["/first"], "a")  # before any upload
    latest.give(1)
    assert latest.replaced(["/first"], "a")
    latest.choose(["/second"], "a")
    assert not latest.replaced(["/second"], "a")
    assert latest.replaced(["/first"], "a")
    latest.choose(["/second"], "b")
    assert latest.replaced(["/second"], "a")
    latest.give(0)  # an upload that failed
    assert not latest.replaced(["/second"], "a")


def test_an_analysis_ends_once_another_input_is_selected_not_before():
    latest = Latest()
    latest.give(1)
    latest.choose(["/first"], "a")
    check, check_all = latest.watch(["/first"], "a"), latest.watch(["/first"])
    check(1, 9)
    latest.choose(["/first"], "b")
    with pytest.raises(Superseded):
        check()
    check_all()  # any input of these files
    latest.give(2)
    check()  # the files are on their way, but may not arrive
    latest.choose(["/second"], "a")
    for one in (check, check_all):
        with pytest.raises(Superseded):
            one(2, 9)


def test_a_late_announcement_changes_nothing():
    latest = Latest()
    latest.give(2)  # with the files
    latest.choose(["/second"], "a")
    for announced in (1, 2):
        latest.give(announced)
        assert (latest.upload, latest.replaced(["/second"], "a")) == (2, False)


def test_sessions_share_nothing():
    one, other = (SimpleNamespace(session_hash=name) for name in ("one", "other"))
    latest_of(one).give(1)
    assert latest_of(one) is latest_of(one)
    assert (latest_of(one).upload, latest_of(other).upload) == (1, 0)
