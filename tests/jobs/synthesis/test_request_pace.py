"""How many requests are under way at once, and what is read from a server's answers."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

import pytest

from jobs.synthesis.chat_server import chat_address, error_text, retry_after, without_login
from jobs.synthesis.request_pace import RequestPace


def test_the_limit_rises_by_one_a_round_and_halves_once_for_requests_of_one_round() -> None:
    pace = RequestPace(100)
    tickets = [pace.enter() for _ in range(4)]
    assert pace.limit == 4
    for ticket in tickets:
        assert ticket is not None
        pace.succeeded(ticket)
    assert 4.8 < pace.limit < 5
    together = [ticket for _ in range(4) if (ticket := pace.enter()) is not None]
    before = pace.limit
    for ticket in together:
        pace.failed(ticket, overloaded=True)
    assert pace.limit == before / 2 and pace.lowered == 1
    for _ in range(20):
        ticket = pace.enter()
        assert ticket is not None
        pace.failed(ticket, overloaded=True)
    assert pace.limit == 1.0, "one request is always allowed"


def test_no_request_is_under_way_beyond_the_limit() -> None:
    pace = RequestPace(3)
    for _ in range(3):
        assert pace.enter() is not None
    entered = threading.Event()

    def fourth() -> None:
        pace.enter()
        entered.set()

    threading.Thread(target=fourth, daemon=True).start()
    assert not entered.wait(0.2)
    ticket = type("T", (), {"began": time.monotonic()})()
    pace.succeeded(ticket)
    assert entered.wait(10) and pace.highest == 3


def test_a_pause_holds_all_requests_back_and_a_stop_lets_them_go() -> None:
    pace = RequestPace(4)
    ticket = pace.enter()
    assert ticket is not None
    pace.failed(ticket, overloaded=True, pause=0.4)
    began = time.monotonic()
    assert pace.enter() is not None
    assert time.monotonic() - began >= 0.35
    pace.failed(ticket, overloaded=True, pause=600)
    threading.Timer(0.1, pace.stop).start()
    assert pace.enter() is None
    pace.sleep(600)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 0), ("7", 7), ("1.5", 1.5), ("soon", 0), ("-3", 0)]
)
def test_a_pause_is_read_from_seconds(header: str | None, seconds: float) -> None:
    assert retry_after(header) == seconds


def test_a_pause_is_read_from_a_date() -> None:
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 61
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


def test_addresses_and_errors_are_read_in_the_forms_that_servers_have() -> None:
    assert chat_address("http://h:1/v1/") == "http://h:1/v1/chat/completions"
    assert chat_address("http://h/v1/chat/completions") == "http://h/v1/chat/completions"
    assert without_login("https://me:pw@h:8/v1?key=x") == "https://h:8/v1"
    assert error_text('{"error": {"message": "no such\\n model"}}') == "no such model"
    assert error_text('{"error": "plain"}') == "plain"
    assert error_text("<h1>Bad</h1>") == "<h1>Bad</h1>" and error_text("") == "nothing"
