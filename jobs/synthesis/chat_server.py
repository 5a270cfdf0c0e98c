"""A teacher behind an OpenAI-compatible server: requests at the pace that it takes, tried again
with growing pauses, and what went wrong in words.

Replies and failures are put into a queue; the requests themselves are made by threads. The key goes
into one header and nowhere else: a reply that repeats it is kept without.
"""

from __future__ import annotations

import json
import queue
import random
import re
import threading
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from jobs.synthesis.drafts import Ask, Reply
from jobs.synthesis.request_pace import RequestPace
from jobs.synthesis_settings import Teacher

OVERLOADED = (429, 503, 529)
AGAIN = (408, 409, 425, 500, 502, 504, *OVERLOADED)
REFUSED = (400, 413, 422)
"""Of one request: others may be taken."""
ATTEMPTS = 6
"""Times that a request may fail before its draft is given up."""
MOST_REFUSALS = 100
"""Times that it may be told to come later."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
CONNECT_SECONDS = 10.0
START_SECONDS = 3.0
"""How long a server that has never answered may refuse connections."""
MOST_BYTES = 8 << 20
SHOWN = 160
TOKEN_CHARACTERS = 4
"""Characters of a token, where a server counts none."""


class Unusable(ValueError):
    """The server cannot be used as it was named."""


class Gone(ConnectionError):
    """The server has answered, and does so no more."""


class Failure(Exception):
    """One attempt that failed."""

    def __init__(
        self, text: str, overloaded: bool = False, pause: float = 0.0, counts: bool = True
    ) -> None:
        super().__init__(text)
        self.overloaded = overloaded
        """Whether fewer requests at once would help."""
        self.pause = pause
        """Seconds that the server wants to be left alone."""
        self.counts = counts
        """Whether it is one of the few attempts that a request has."""


class ChatServer:
    """Requests to one server. `done` receives (ask, reply), or (None, error) when all is over."""

    is_local = False

    def __init__(
        self, settings: Teacher, key: str | None, done: queue.Queue[Any], setting: str
    ) -> None:
        self.settings = settings
        self.setting = setting
        """Dotted path of the settings, for messages."""
        self.key = key
        self.done = done
        self.waiting: queue.Queue[Ask | None] = queue.Queue()
        self.pace = RequestPace(settings.requests)
        self.outstanding = 0
        self.refused = 0
        self.reached = False
        self.address = chat_address(settings.url or "")
        self.shown = without_login(settings.url or "")
        self.name = f"{settings.model} at {self.shown}"
        self.threads = [
            threading.Thread(target=self.work, daemon=True) for _ in range(settings.requests)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def identity(self) -> str:
        """What decides its replies."""
        s = self.settings
        return json.dumps([self.name, s.temperature, s.max_new_tokens, s.body], sort_keys=True)

    def free(self) -> int:
        """How many more requests it takes now."""
        return self.settings.requests - self.outstanding

    def submit(self, ask: Ask) -> None:
        """Make a request; its reply comes into the queue."""
        if self.outstanding == 0:
            self.pace.begin()
        self.outstanding += 1
        self.waiting.put(ask)

    def received(self) -> None:
        """Called for each reply that was taken from the queue."""
        self.outstanding -= 1

    def figures(self) -> dict[str, int]:
        """How many requests were under way at once, and how often that was too many."""
        return {"most_at_once": self.pace.highest, "lowered": self.pace.lowered}

    def close(self) -> None:
        """Let no further request start."""
        self.pace.stop()
        for _ in self.threads:
            self.waiting.put(None)

    def work(self) -> None:
        """One thread: request after request."""
        session = requests.Session()
        session.auth = self.signed
        while (ask := self.waiting.get()) is not None:
            try:
                reply = self.answered(session, ask)
            except Exception as error:  # noqa: BLE001  # told in the main thread
                self.done.put((None, error))
                return
            if reply is None:
                return
            self.done.put((ask, reply))

    def signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """A request with the key, and never with what a .netrc holds for that host."""
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def answered(self, session: requests.Session, ask: Ask) -> Reply | None:
        """The reply, after as many attempts as it takes; one with an error where this request fails
        for good, None when all is to stop. Raises Unusable or Gone.
        """
        attempts, refusals = 0, 0
        pause = FIRST_PAUSE
        while True:
            ticket = self.pace.enter()
            if ticket is None:
                return None
            try:
                reply = self.attempt(session, ask)
            except Failure as failure:
                self.pace.failed(ticket, failure.overloaded, failure.pause)
                self.check_patience(failure)
                attempts += failure.counts
                refusals += not failure.counts
                if attempts >= ATTEMPTS or refusals >= MOST_REFUSALS:
                    return Reply("", error=f"{failure} ({attempts + refusals} times)")
                if not failure.pause:
                    self.pace.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            except BaseException:
                self.pace.failed(ticket, overloaded=False)
                raise
            if reply.error:
                self.pace.failed(ticket, overloaded=False)
                self.count_refused(reply.error)
            else:
                self.pace.succeeded(ticket)
            return reply

    def count_refused(self, error: str) -> None:
        """Raise Unusable when a server has refused whatever it was asked."""
        self.refused += 1
        if self.pace.successes == 0 and self.refused >= 3:
            raise Unusable(
                f"{self.setting}.url={self.shown} refuses every request: {error}; look at "
                f"{self.setting}.model, and at {self.setting}.body for fields that it wants or "
                "does not know"
            )

    def check_patience(self, failure: Failure) -> None:
        """Raise where nothing has succeeded for too long."""
        s = self.settings
        waited = self.pace.without_success()
        remedy = f"start it, or name another one: {self.setting}.url=http://HOST:PORT/v1"
        if not self.reached and waited > min(START_SECONDS, s.patience_seconds):
            raise Unusable(
                f"{self.setting}.url={self.shown} cannot be reached: {failure}; {remedy}"
            )
        if failure.pause > s.patience_seconds:
            raise Gone(
                f"{self.setting}.url={self.shown} asks for a pause of {failure.pause:.0f} s "
                f"({failure}), longer than {self.setting}.patience_seconds={s.patience_seconds:g}; "
                "come back later, or raise it"
            )
        if waited > s.patience_seconds:
            raise Gone(
                f"{self.setting}.url={self.shown} has answered nothing for {waited:.0f} s: "
                f"{failure}; {remedy}; {self.setting}.patience_seconds waits longer, "
                f"{self.setting}.timeout_seconds={s.timeout_seconds:g} is a single request's time"
            )

    def attempt(self, session: requests.Session, ask: Ask) -> Reply:
        """One request. Raises Failure for what may go well another time, Unusable for what will
        not.
        """
        began = time.monotonic()
        try:
            response = session.post(
                self.address,
                json=self.body(ask),
                timeout=(
                    min(CONNECT_SECONDS, self.settings.timeout_seconds),
                    self.settings.timeout_seconds,
                ),
                stream=True,
                allow_redirects=False,
            )
            self.reached = True
            content = self.content_of(response, began)
        except requests.exceptions.SSLError as error:
            raise Unusable(
                f"{self.setting}.url={self.shown}: its certificate is not trusted: "
                f"{reason_of(error)}; REQUESTS_CA_BUNDLE names a file of further ones"
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
            raise Unusable(f"{self.setting}: {self.hidden(str(error))[:SHOWN]}") from None
        except requests.exceptions.ReadTimeout:
            self.reached = True
            raise Failure(
                f"no answer within {self.settings.timeout_seconds:g} s", overloaded=True
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise Failure("no connection in time", overloaded=self.reached) from None
        except requests.exceptions.RequestException as error:
            late = "Read timed out" in str(error)
            text = f"no whole answer within {self.settings.timeout_seconds:g} s"
            raise Failure(text if late else self.hidden(reason_of(error)), late) from None
        reply = self.reply_of(response, content, time.monotonic() - began)
        if reply.error or reply.counted:
            return reply
        characters = sum(len(str(message["content"])) for message in ask.as_one)
        return replace(reply, input_tokens=-(-characters // TOKEN_CHARACTERS))

    def body(self, ask: Ask) -> dict[str, Any]:
        """What is sent."""
        s = self.settings
        fields: dict[str, Any] = {
            "model": s.model,
            "messages": list(ask.as_one),
            "max_tokens": s.max_new_tokens,
            "temperature": s.temperature,
        }
        fields |= s.body
        return {name: value for name, value in fields.items() if value is not None}

    def content_of(self, response: requests.Response, began: float) -> bytes:
        """The body of a response, read within the time of one request."""
        content = b""
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if time.monotonic() - began > self.settings.timeout_seconds:
                response.close()
                raise Failure(
                    f"no whole answer within {self.settings.timeout_seconds:g} s", overloaded=True
                )
            if len(content) > MOST_BYTES:
                response.close()
                raise Failure(f"an answer of more than {MOST_BYTES:,} bytes")
        return content

    def reply_of(self, response: requests.Response, content: bytes, seconds: float) -> Reply:
        """What a response means; see `attempt`."""
        status = response.status_code
        text = self.hidden(content[:2_000].decode("utf-8", "replace"))
        outcome = f"{status} {response.reason or ''}".strip() + f": {error_text(text)}"
        if status in AGAIN:
            pause = retry_after(response.headers.get("Retry-After"))
            raise Failure(outcome, status in OVERLOADED, pause, counts=status not in OVERLOADED)
        if status in REFUSED:
            return Reply("", error=outcome)
        where = f"{self.setting}.url={self.shown} answers {outcome}"
        if status in (401, 403):
            holds = (
                f"{self.setting}.key names the environment variable with its key"
                if self.key is None
                else f"the key in the variable {self.settings.key} is not taken"
            )
            raise Unusable(f"{where}; {holds}")
        if status != 200:
            raise Unusable(
                f"{where}; the URL usually ends in /v1, and {self.setting}.model="
                f"{self.settings.model} must be a model of that server"
            )
        return self.text_of(content, text, seconds)

    def text_of(self, content: bytes, shown: str, seconds: float) -> Reply:
        """The text in the body of a good response. Raises Failure for a body that holds none."""
        try:
            fields = json.loads(content)
            choice = fields["choices"][0]
            text = choice["message"]["content"]
            if isinstance(text, list):
                text = "".join(piece.get("text", "") for piece in text)
            if text is not None and not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            if self.pace.successes == 0:
                self.refused += 1
            if self.pace.successes == 0 and self.refused >= 3:
                raise Unusable(
                    f"{self.setting}.url={self.shown} is no OpenAI-compatible server: it answers "
                    f"200 with {shown[:SHOWN]!r} instead of choices[0].message.content; the URL "
                    "usually ends in /v1"
                ) from None
            raise Failure(f"200 with {shown[:SHOWN]!r} instead of an answer") from None
        usage = fields.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        text = self.hidden(text or "")
        return Reply(
            text,
            str(choice.get("finish_reason") or "stop"),
            read if isinstance(read, int) else 0,
            written if isinstance(written, int) else -(-len(text) // TOKEN_CHARACTERS),
            isinstance(read, int) and isinstance(written, int),
            round(seconds, 3),
        )

    def hidden(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self.key, "***") if self.key else text


def chat_address(url: str) -> str:
    """Where chat completions are asked for."""
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def without_login(url: str) -> str:
    """A URL without a name, a password and a query, which may hold a secret."""
    parsed = urlsplit(url)
    return f"{parsed.scheme}://{parsed.netloc.rpartition('@')[2]}{parsed.path}"


def retry_after(header: str | None) -> float:
    """Seconds that a server asks to wait, 0 where it does not say."""
    if not header:
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def error_text(body: str) -> str:
    """What an error's body says, in a line."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = body
    return " ".join(str(text).split())[:SHOWN] or "nothing"


def reason_of(error: Exception) -> str:
    """The cause of a failed connection in a few words."""
    text = str(error)
    for words in ("Connection refused", "Name or service not known", "No route to host"):
        if words in text:
            return words.lower()
    if "NameResolutionError" in text or "Temporary failure in name resolution" in text:
        return "no such host"
    if "RemoteDisconnected" in text or "Connection aborted" in text or "reset" in text.lower():
        return "the connection broke"
    return " ".join(text.split())[:SHOWN]
