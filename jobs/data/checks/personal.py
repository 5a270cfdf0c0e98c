"""Personal data in prompts and answers: e-mail addresses, telephone numbers, bank accounts, payment
cards and IP addresses, each by its form and, where it has one, by its checksum.

Names and postal addresses are not looked for: that takes a model. What is shown of a hit is masked.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from jobs.data.checks.result import MOST_EXAMPLES, CheckResult, groups_of_rows, place
from jobs.data.corpus import Corpus
from jobs.data.readers import Row
from jobs.data.row_quality import texts_of

EMAIL = re.compile(r"[\w.+-]+@(?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_]{2,}")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}")
CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w]|[.,-]\d)")
PHONE = re.compile(
    r"(?<![\w.,/-])(?<!\d )(?:"
    r"\+\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}"  # +49 30 1234567
    r"|\(0?\d{2,5}\)[ -]?\d{3,4}[ -]?\d{3,5}"  # (030) 1234567, (212) 555-0142
    r"|0\d{1,4}[ /-]\d{3,4}[ -]?\d{3,6}"  # 030 1234567, 0171/1234567
    r"|0\d(?:[ .-]\d{2}){4}"  # 06 12 34 56 78
    r"|(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"  # 212-555-0142
    r")(?![\w]|[ .,/-]\d)"
)
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
DIGITS = re.compile(r"\d[\d \-./()]{5,}\d|[0-9A-Fa-f]*:[0-9A-Fa-f]*:")
"""What any of the kinds with digits holds: most texts have none of it and are done."""
IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d\d)",
        "AD24AE23AL28AT20AZ28BA20BE16BG22BH22BI27BR29BY28CH21CR22CY28CZ24DE22DJ27DK18DO28EE20EG29"
        "ES24FI18FK18FO18FR27GB22GE22GI23GL18GR27GT28HN28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20"
        "LB28LC32LI21LT20LU20LV21LY25MC27MD24ME22MK19MN20MR27MT31MU30NI28NL18NO15OM23PK24PL28PS29"
        "PT25QA29RO24RS22RU33SA24SC31SD18SE24SI19SK24SM27SO23ST25SV28TL23TN24TR26UA29VA22VG24XK20"
        "YE30",
    )
}
"""Characters of an account number by its country (the IBAN registry, ISO 13616)."""
CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}|62\d{14,17}"
    r"|(?:5018|5020|5038|6304|6759|676[1-3])\d{8,15}"
)
"""Numbers as the issuers of payment cards give them out, by beginning and length."""


@dataclass
class Kind:
    """One kind of personal data among the rows of a group."""

    rows: int = 0
    examples: list[str] = field(default_factory=list)
    """Masked, with file and line."""


def check(corpus: Corpus) -> CheckResult:
    """Rows with personal data by kind, for each source and split."""
    warnings: list[str] = []
    numbers: dict[str, dict[str, int]] = {}
    total = 0
    for name, rows in groups_of_rows(corpus):
        total += len(rows)
        kinds: dict[str, Kind] = {}
        for row in rows:
            note_row(row, kinds)
        for kind, hits in kinds.items():
            shown = ", ".join(hits.examples)
            warnings.append(
                f"{name}: {kind} in {hits.rows:,} of {len(rows):,} rows, such as {shown}; leave "
                "them out, or replace them, unless they may be trained on"
            )
        if kinds:
            numbers[name] = {kind: hits.rows for kind, hits in kinds.items()}
    summary = f"none in {total:,} rows, as far as forms and checksums tell"
    if numbers:
        counts: dict[str, int] = {}
        for by_kind in numbers.values():
            for kind, rows_with in by_kind.items():
                counts[kind] = counts.get(kind, 0) + rows_with
        listed = ", ".join(f"{kind} in {count:,}" for kind, count in counts.items())
        summary = f"{listed} of {total:,} rows"
    return CheckResult("personal", summary, warnings, numbers=numbers)


def note_row(row: Row, kinds: dict[str, Kind]) -> None:
    """Add to `kinds` what a row holds; a row counts once for each kind."""
    seen: dict[str, str] = {}
    calls = [message["tool_calls"] for message in row.messages if message.get("tool_calls")]
    texts = texts_of(row) + ([json.dumps(calls, ensure_ascii=False)] if calls else [])
    for text in texts:
        for kind, masked in hits_in(text):
            seen.setdefault(kind, masked)
    for kind, masked in seen.items():
        hits = kinds.setdefault(kind, Kind())
        hits.rows += 1
        if len(hits.examples) < MOST_EXAMPLES:
            hits.examples.append(f"{masked} ({place(row)})")


def hits_in(text: str) -> Iterator[tuple[str, str]]:
    """Kind and masked form of each personal datum in a text. What is an account is no card, and
    what is a card is no telephone number.
    """
    if "@" in text:
        for match in EMAIL.finditer(text):
            yield "e-mail addresses", masked_email(match[0])
    if DIGITS.search(text) is None:
        return
    for kind, pattern, accept, masked in KINDS_WITH_DIGITS:
        taken: list[str] = []
        for match in pattern.finditer(text):
            accepted = accept(match[0])
            if accepted is not None:
                taken.append(accepted)
                yield kind, masked(accepted)
        for one in taken:
            text = text.replace(one, " ")


def iban(text: str) -> str | None:
    """The account number at the beginning of a text, where length and checksum are right."""
    length = IBAN_LENGTHS.get(text[:2])
    if length is None:
        return None
    end = 0
    for _ in range(length):
        while end < len(text) and text[end] in " -":
            end += 1
        end += 1
    if end > len(text):
        return None
    number = re.sub(r"[ -]", "", text[:end])
    moved = number[4:] + number[:4]
    if int("".join(str(int(letter, 36)) for letter in moved)) % 97 != 1:
        return None
    return text[:end]


def card(text: str) -> str | None:
    """A payment card's number, where issuer, length and check digit (Luhn, ISO 7812) are right."""
    digits = re.sub(r"[ -]", "", text)
    if CARDS.fullmatch(digits) is None or len(set(digits)) == 1:
        return None
    total = 0
    for index, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + index % 2)
        total += doubled - 9 * (doubled > 9)
    return text if total % 10 == 0 else None


def phone(text: str) -> str | None:
    """A telephone number of 8 to 15 digits (ITU E.164), which is no date."""
    count = sum(character.isdigit() for character in text)
    return text if 8 <= count <= 15 and text.count("(") == text.count(")") else None


def address(text: str) -> str | None:
    """An IP address of someone: not this machine's, nor none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if found.is_loopback or found.is_unspecified or found.is_multicast else text


def masked_email(text: str) -> str:
    """j***@e***.org."""
    name, _, domain = text.partition("@")
    return f"{name[0]}***@{domain[0]}***.{domain.rpartition('.')[2]}"


def masked_end(text: str) -> str:
    """The first two and the last two characters."""
    return f"{text[:2]}***{text[-2:]}"


def masked_address(text: str) -> str:
    """The first part of an IP address."""
    mark = ":" if ":" in text else "."
    return f"{text.partition(mark)[0]}{mark}***"


KINDS_WITH_DIGITS: tuple[
    tuple[str, re.Pattern[str], Callable[[str], str | None], Callable[[str], str]], ...
] = (
    ("account numbers (IBAN)", IBAN, iban, masked_end),
    ("payment card numbers", CARD, card, masked_end),
    ("IP addresses", IPV4, address, masked_address),
    ("IP addresses", IPV6, address, masked_address),
    ("telephone numbers", PHONE, phone, masked_end),
)
