"""No secret in any text: the mask over the forms that addresses take, and what stands in a secret's
place in a command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from orchestrator.config import credentials
from orchestrator.errors import ConfigError, TrackingError
from orchestrator.tracking.uri import resolve

SECRETS = (
    "s3cret-0815",
    "p@ss",
    "@",
    "@@",
    "a/b",
    "a?b",
    "a#b",
    "a:b",
    "x@y/z",
    "x/y@z",
    "p@s?s@x",
    "100%",
    "p%40ss",
    "it's",
    "pa$$",
    "${x}",
    "ü-umlaut",
    "a&b=c",
    "12/x",
    "8080/x@y",
    "12?x",
    "12#x",
    "12/3?4#5@6",
    "99999/x",
)
"""Passwords of every kind of character that an address gives a meaning to, as they are typed."""
FORMS = (
    "http://me:{}@host:5000",
    "http://jane.doe:{}@host:5000",
    "https://me:{}@host/prefix/",
    "http://:{}@host",
    "postgresql://me:{}@host/database",
    "postgresql+psycopg://me:{}@host:5432/database?sslmode=require",
    "postgres://me.name:{}@[::1]:5432/d",
)
TOKENS = (
    "http://{}@host:5000",
    "https://{}:@host/prefix",
    "http://{}:x-oauth-basic@host",
    "https://ghp_0123456789012345678901234567890123456789{}:x@host",
    "http://host/?token={}",
    "http://host/path?a=b&access_token={}&c=d",
    "http://host?api_key={}",
    "https://bucket.example/x?X-Amz-Signature={}&X-Amz-Credential=y",
    "postgresql://me@host/d?password={}",
    "postgresql://host/d?user=me&password={}&sslmode=require",
    "postgresql://me@host/d?sslpassword={}",
    "s3://{}@bucket/prefix",
    "http://host/x#access_token={}",
    "az://account?sas={}",
    "abfs://account:{}@account.dfs.core.windows.net/rows",
    "abfs://container@account.dfs.core.windows.net/rows?client_secret={}",
    "abfs://container@account.dfs.core.windows.net/rows?sv=1&sig={}",
    "http://host/?jwt={}",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{}",
    "https://me:a?b={}@host/x",
    "https://me:{}?x=y@host",
)
OPEN = (
    "http://host:5000",
    "http://127.0.0.1:5000/a@b",
    "http://localhost:5000/#/x@y",
    "http://host/a@b?c=d",
    "http://host/?mail=a@b",
    "http://127.0.0.1:80/?mail=a@b",
    "postgresql://host:5432/d?user=me@server",
    "https://[::1]:5000/x",
    "postgresql://me@host/d",
    "postgresql:///d?host=/var/run&sslkey=/certs/x.key&passfile=/home/me/.pgpass",
    "sqlite:////tmp/my outputs/mlflow.db",
    "models:/icd10@champion",
    "s3://bucket/prefix",
    "ssh://git@host/repository",
    "abfs://container@account.dfs.core.windows.net/rows",
    "abfss://a-container-with-a-long-name@account.dfs.core.windows.net/rows",
    "abfs://container@account.dfs.core.windows.net/rows?credential_kind=environment",
    "gs://anonymous@bucket/rows",
    "hdfs://me@namenode:8020/rows",
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    "the password is wrong; ask me@example.org",
    "http://***@host:1",
    "http://me:***@host:1/?token=***",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", SECRETS)
def test_a_password_is_masked_whatever_it_holds(form: str, secret: str) -> None:
    for shown in (
        credentials.mask(form.format(secret)),
        credentials.mask(f"cannot open {form.format(secret)}, try again"),
    ):
        assert "***@" in shown
        assert secret not in shown or secret == "@", shown
        assert "host" in shown or "[::1]" in shown
    kept = credentials.printable(f"tracking.uri={form.format(secret)}")
    assert kept == f"tracking.uri={form}".replace(
        "{}", "${secret:%s}" % ("PGPASSWORD" if "postgres" in form else "MLFLOW_TRACKING_PASSWORD")
    )


@pytest.mark.parametrize("form", TOKENS)
def test_a_token_is_masked_wherever_it_stands(form: str) -> None:
    canary = "canary4711"
    for text in (
        form.format(canary),
        f"'{form.format(canary)}': no answer",
        f"tracking.uri={form.format(canary)}",
    ):
        assert canary not in credentials.mask(text) and canary not in credentials.printable(text)
        assert "ghp_0123" not in credentials.mask(text)
    assert credentials.holds_secret(form.format(canary))
    assert "${secret:" in credentials.printable(form.format(canary))


@pytest.mark.parametrize("text", OPEN)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert credentials.mask(text) == text
    assert credentials.printable(text) == text


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (
            'tracking.uri=http://me:pa ss"wo@rd@host',
            "tracking.uri=http://me:${secret:MLFLOW_TRACKING_PASSWORD}@host",
        ),
        (
            '++tracking.uri="http://me:canary@host"',
            '++tracking.uri="http://me:${secret:MLFLOW_TRACKING_PASSWORD}@host"',
        ),
        (
            "tracking={uri: http://me:canary@host, experiment: x}",
            "tracking={uri: http://me:${secret:MLFLOW_TRACKING_PASSWORD}@host, experiment: x}",
        ),
        (
            "tracking.uri=http://first.last-name@company.example:canary@host",
            "tracking.uri=http://first.last-name@company.example:${secret:MLFLOW_TRACKING_PASSWORD}@host",
        ),
        (
            "tracking.uri=postgresql://a_user_with_a_very_long_name:canary@h/d",
            "tracking.uri=postgresql://a_user_with_a_very_long_name:${secret:PGPASSWORD}@h/d",
        ),
        (
            "tracking.uri=http://h?api-key=canary",
            "tracking.uri=http://h?api-key=${secret:TRACKING_API_KEY}",
        ),
        (
            "tracking.uri=http://me:${secret:MINE}@host",
            "tracking.uri=http://me:${secret:MINE}@host",
        ),
    ],
)
def test_a_printed_setting_means_what_was_typed(typed: str, printed: str) -> None:
    assert credentials.printable(typed) == printed


@pytest.mark.parametrize(
    "text",
    [
        "connection to host=h user=me password=canary4711 failed",
        "host=h password='canary4711 with spaces' dbname=d",
        "headers {'Authorization': 'Bearer canary4711'}",
        "Authorization: Basic canary4711",
    ],
)
def test_secrets_in_the_words_of_other_programs_are_masked(text: str) -> None:
    assert "canary4711" not in credentials.mask(text)


def test_a_secret_of_this_command_is_masked_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary/4711+aws")
    monkeypatch.setenv("MY_TOKEN_FILE", "/a/path/that/is/no/secret")
    credentials.remember_environment()
    credentials.remember_address("http://me:canary%404712@host")
    text = "denied: canary/4711+aws, canary@4712, canary%404712 (see /a/path/that/is/no/secret)"
    assert credentials.mask(text) == "denied: ***, ***, *** (see /a/path/that/is/no/secret)"


@pytest.mark.parametrize("secret", [secret for secret in SECRETS if secret != "p%40ss"])
def test_a_password_reaches_the_server_as_it_was_typed(secret: str) -> None:
    """Whether typed as it is or with %: every library must read the same."""
    import psycopg.conninfo
    from requests.utils import get_auth_from_url
    from sqlalchemy.engine import make_url

    as_typed = (
        () if "%" in secret or credentials.is_ambiguous(f"http://me:{secret}@host") else (secret,)
    )
    for typed in (*as_typed, quote(secret, safe="")):
        assert get_auth_from_url(resolve(f"http://me:{typed}@host:5000")) == ("me", secret)
        resolved = resolve(f"postgresql://me:{typed}@host/d")
        assert make_url(resolved).password == secret
        assert (
            psycopg.conninfo.conninfo_to_dict(resolved.replace("+psycopg", ""))["password"]
            == secret
        )


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
@pytest.mark.parametrize("secret", ["12/x", "8080/x@y", "12?x", "12#x", "12/3?4#5@6"])
def test_a_password_that_may_be_a_port_is_refused_with_how_to_write_it(
    scheme: str, secret: str
) -> None:
    with pytest.raises(TrackingError, match="%2F") as caught:
        resolve(f"{scheme}://me:{secret}@host")
    assert f"tracking.uri={scheme}://me:***@host: " in str(caught.value)
    written = resolve(f"{scheme}://me:{quote(secret, safe='')}@host")
    assert f"me:{quote(secret, safe='')}@host" in written


@pytest.mark.parametrize(
    "uri", ["http://host:5000/prefix", "http://127.0.0.1:5000/a@b", "http://host:5000/a%40b"]
)
def test_a_port_and_a_path_are_no_password(uri: str) -> None:
    assert resolve(uri) == uri


@pytest.mark.parametrize("secret", ["12?x=y", "12/x?y=z", "80/?mail=a", "12/x#y=z"])
def test_a_server_has_no_query_with_an_at(secret: str) -> None:
    uri = f"http://u:{secret}@host:5000/x"
    assert credentials.mask(f"open {uri}") == "open http://u:***@host:5000/x"
    assert credentials.printable(uri) == "http://u:${secret:MLFLOW_TRACKING_PASSWORD}@host:5000/x"
    with pytest.raises(TrackingError, match=r"http://u:\*\*\*@host:5000/x: before the @"):
        resolve(uri)


ODD = ("pa ss", 'a"b', "<x>", "`", "a\nb", "12?x=y", "1", "a b@c d/e")
"""Passwords that nobody can find in a text by an address's form."""


@pytest.mark.parametrize("secret", ODD)
def test_what_stood_before_a_host_is_masked_in_any_text(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.setattr(credentials, "USERS", {})
    credentials.remember_address(f"http://me:{secret}@host:5000")
    shown = credentials.mask(f"cannot open http://me:{secret}@host:5000/api, nor me:{secret}@host")
    assert shown == "cannot open http://me:***@host:5000/api, nor me:***@host"
    assert credentials.mask("1 of 12 at x=y@z") == "1 of 12 at x=y@z"


def composed(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "orchestrator", "model=tiny", "--cfg", "job", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **given})


def test_a_setting_asks_for_its_secret_and_never_shows_it(tmp_path: Path) -> None:
    from orchestrator.config.compose import compose

    (tmp_path / "secret").write_text("p@ss/w${o}rd\n")
    os.environ["MY_SECRET"] = "p@ss/w${o}rd"
    try:
        for place in ("MY_SECRET", str(tmp_path / "secret")):
            found = compose([f"tracking.uri=http://me:${{secret:{place}}}@host"], None)
            assert found["tracking"]["uri"] == "http://me:p%40ss%2Fw%24%7Bo%7Drd@host"
            shown = str(credentials.without_secrets(found))
            assert "me:${secret:MLFLOW_TRACKING_PASSWORD}@host" in shown and "ss%2F" not in shown
    finally:
        del os.environ["MY_SECRET"]
    with pytest.raises(
        ConfigError,
        match="tracking.uri +NO_SUCH_SECRET, which holds the secret, is not set in the environment",
    ):
        compose(["tracking.uri=http://me:${secret:NO_SUCH_SECRET}@host"], None)
    with pytest.raises(
        ConfigError, match=r"tracking.uri +the secret's file /no/such cannot be read: No such file"
    ):
        compose(["tracking.uri=http://me:${secret:/no/such}@host"], None)


def test_cfg_job_shows_no_secret_and_what_it_shows_can_be_used_again() -> None:
    done = composed("tracking.uri=http://me:canary@4711@host")
    assert (
        "4711" not in done.stdout + done.stderr
        and "uri: http://me:${secret:MLFLOW_TRACKING_PASSWORD}@host" in done.stdout
    )
    again = composed(
        "tracking.uri=http://me:${secret:MLFLOW_TRACKING_PASSWORD}@host",
        MLFLOW_TRACKING_PASSWORD="canary@4711",
    )
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    "uri",
    [
        "http://host/?token=canary4711",
        "http://host/x#canary4711",
        "https://me:canary4711@host/?a=b",
    ],
)
def test_a_server_whose_address_has_a_query_is_refused_without_repeating_its_secret(
    uri: str,
) -> None:
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_TOKEN") as caught:
        resolve(uri)
    assert "canary4711" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["//me:canary4711@host/x", "http:/me:canary4711@host", "http:me:canary4711@host"]
)
def test_an_address_whose_beginning_is_mistyped_is_refused_without_its_secret(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    with pytest.raises(
        TrackingError, match=r"did you mean tracking\.uri=http://me:\*\*\*@host"
    ) as it:
        resolve(uri)
    assert "canary4711" not in str(it.value)
    credentials.remember_address(uri)
    assert "canary4711" not in credentials.mask(f"cannot open {uri}")


def test_secrets_in_other_settings_and_in_addresses_of_variables_are_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "SECRETS", set())
    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy-canary4711@proxy:3128")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a/simple https://index-canary4711@b/simple")
    credentials.remember_environment()
    credentials.remember_settings(
        {"cluster": {"address": "http://me:head-canary4711@head"}, "storage": None, "n": 3}
    )
    text = "proxy-canary4711, index-canary4711 and head-canary4711 were refused by proxy:3128"
    assert credentials.mask(text) == "***, *** and *** were refused by proxy:3128"


@pytest.mark.parametrize(
    "store",
    [
        "abfs://container@account.dfs.core.windows.net/x",
        "abfss://container@account.dfs.core.windows.net/x",
        "gs://anonymous@bucket/x",
        "hdfs://me@namenode:8020/x",
    ],
)
def test_a_store_with_a_name_before_its_host_is_taken(store: str) -> None:
    from orchestrator.config.compose import compose
    from tests.support.settings import build

    settings = ["data=files", f"data.folder={store}/rows", f"data.test={store}/test.jsonl"]
    settings += [f"storage={store}", "tracking.uri=http://host:5000"]
    config = build(compose(["model=tiny", *settings], None))
    assert (config.storage, config.data.folder) == (store, f"{store}/rows")
