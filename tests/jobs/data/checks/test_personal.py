"""Personal data is told by kind, masked, with its place; numbers that only look like it are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.config import Data
from jobs.data.checks.personal import check, hits_in
from jobs.data.corpus import load_corpus
from tests.support.row_files import write


@pytest.mark.parametrize(
    ("text", "kind", "masked"),
    [
        ("write to Jane.Doe+shop@mail.example.org, please", "e-mail addresses", "J***@m***.org"),
        ("mein Konto: DE89 3704 0044 0532 0130 00 IST NEU", "account numbers (IBAN)", "DE***00"),
        ("pay GB82WEST12345698765432 today", "account numbers (IBAN)", "GB***32"),
        ("FR14 2004 1010 0505 0001 3M02 606", "account numbers (IBAN)", "FR***06"),
        ("card 4111 1111 1111 1111, valid till May", "payment card numbers", "41***11"),
        ("amex 378282246310005", "payment card numbers", "37***05"),
        ("5555-5555-5555-4444.", "payment card numbers", "55***44"),
        ("call +49 30 1234567 now", "telephone numbers", "+4***67"),
        ("call (030) 1234 567", "telephone numbers", "(0***67"),
        ("ring 212-555-0142 or mail", "telephone numbers", "21***42"),
        ("0171/1234567", "telephone numbers", "01***67"),
        ("06 12 34 56 78", "telephone numbers", "06***78"),
        ("from 192.168.17.4 at night", "IP addresses", "192.***"),
        ("from 2001:db8::ff00:42:8329 at night", "IP addresses", "2001:***"),
    ],
)
def test_each_kind_is_recognised_and_masked(text: str, kind: str, masked: str) -> None:
    assert list(hits_in(text)) == [(kind, masked)]


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",  # the checksum is wrong
        "XX89 3704 0044 0532 0130 00",  # no such country
        "4111 1111 1111 1112",  # the check digit is wrong
        "order 1234567890123456",  # no issuer gives out such numbers
        "0000 0000 0000 0000",
        "300.168.17.4 and 1.2.3",
        "127.0.0.1 and ::1",
        "on 2024-01-15 at 10:30:22",
        "pages 120-145, 12,345,678 rows, 3.14159265",
        "the @ sign, a@b, and user@host",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert list(hits_in(text)) == []


def test_rows_count_once_and_are_named_with_file_and_line(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ticket number {i}", "completion": "done"} for i in range(30)]
    rows[4]["prompt"] = "I am ann@example.org, and ann@example.org again"
    rows[9]["completion"] = "Write to bob@example.org"
    write(tmp_path, "\n".join(map(json.dumps, rows)))
    write(tmp_path, '{"prompt": "v", "completion": "w"}', "valid.jsonl")
    write(tmp_path, '{"prompt": "t", "completion": "w"}', "test.jsonl")
    result = check(load_corpus(Data(name="x", folder=str(tmp_path))))
    assert result.numbers == {"train": {"e-mail addresses": 2}}
    (warning,) = result.warnings
    assert warning.startswith(
        "train: e-mail addresses in 2 of 30 rows, such as a***@e***.org (train.jsonl, line 5), "
        "b***@e***.org (train.jsonl, line 10)"
    )
    assert "ann@" not in json.dumps(vars(result))
