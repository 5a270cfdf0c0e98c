"""The sign-in to Kubernetes: kubeconfigs and accounts as they come, broken in every part, each told
in one line with exit code 2.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from orchestrator.errors import OrchestratorError
from orchestrator.kuberay import overview
from orchestrator.kuberay.client import RAYJOBS, Client
from tests.support.apiserver import ApiServer
from tests.support.conversation import TOKEN
from tests.support.kuberay import Serve, serving, settings

serve = pytest.fixture(serving)
Part = dict[str, Any]


def client(*arguments: str) -> Client:
    """A client for the server that KUBECONFIG leads to, without patience."""
    return Client(settings(*arguments).cluster, 0.1)


def told(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends, for want of a way to the server or of a name there;
    no library prints another.
    """
    with pytest.raises(OrchestratorError) as caught:
        overview.connect(settings().cluster)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert out == "" and all(
        line.endswith("trying again for up to 2 s") for line in err.splitlines()
    )
    return str(caught.value)


def write(file: Path, cluster: Part, user: Part | str | None, **other: Any) -> None:
    """A kubeconfig with one of each."""
    parts = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}]}  # fmt: skip
    parts |= {
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "me", "user": user}],
    }
    file.write_text(yaml.safe_dump(parts | other), encoding="utf-8")


def program(command: str, *arguments: str) -> Part:
    """A user whose token a program fetches."""
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": list(arguments),
        }
    }


USERS = {
    "a program that is not there": (program("no-such-program"), "No such file or directory: 'no-such-program'; sign in again"),
    "a program that asks for more": (program("sh", "-c", "echo log in first >&2; exit 1"), "process returned 1. log in first; sign in again"),
    "a program that prints something else": (program("echo", "hello"), "the sign-in that the kubeconfig asks for failed: exec: failed to decode"),
    "a cloud that is not signed in to": ({"auth-provider": {"name": "gcp", "config": {}}}, "the sign-in of this kubeconfig failed: "),
    "a token of two lines": ({"token": "a\nb"}, "its token holds characters that cannot be sent"),
    "a token with accents": ({"token": "é"}, "its token holds characters that cannot be sent"),
    "a token that is no longer there": ({"tokenFile": "/no/such"}, "No such file or directory: '/no/such'"),
    "a text": ("me", "something else where a name or a list belongs"),
    "nothing": ({}, "does not know this identity (401)"),
}  # fmt: skip


@pytest.mark.parametrize(("user", "words"), USERS.values(), ids=USERS)
def test_a_user_who_cannot_sign_in_is_told_why(
    user: Part | str,
    words: str,
    serve: Serve,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing of the one who runs the tests
    write(tmp_path / "kubeconfig", {"server": serve(None).address}, user)
    assert words in told(capfd)


def test_a_program_that_gives_a_token_signs_in(serve: Serve, tmp_path: Path) -> None:
    answer = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
    write(tmp_path / "kubeconfig", {"server": serve(None).address}, program("echo", answer % TOKEN))
    assert client().items(RAYJOBS) == ([], "1000")


FILES = {
    "empty": ("", "file is empty"),
    "half": ("{", "the kubeconfig cannot be read"),
    "a list": ("[]", "something else where a name or a list belongs"),
    "a text": ("hello", "something else where a name or a list belongs"),
    "a tab": ("a:\n\t- b", "cannot start any token"),
    "binary": (b"\xff\xfe\x00\x81", "can't decode byte 0xff"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_kubeconfig_is_told_as_that(
    content: str | bytes,
    words: str,
    serve: Serve,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve(None)
    (tmp_path / "kubeconfig").write_bytes(content.encode() if isinstance(content, str) else content)
    line = told(capfd)
    assert words in line and str(tmp_path / "kubeconfig") in line


ADDRESSES = {
    "": "server '' is no address such as https://HOST:6443",
    "ftp://host": "server 'ftp://host' is no address such as",
    "https://": "is no address such as",
    "http://host:port": "is the address in the kubeconfig right?",
    "http://[::1": "is the address in the kubeconfig right?",
    "http://me:secret@127.0.0.1:9": "the API server http://me:***@127.0.0.1:9 refuses the connection",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_leads_nowhere_is_named(
    address: str, serve: Serve, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    serve(None)
    write(tmp_path / "kubeconfig", {"server": address}, {"token": TOKEN})
    assert ADDRESSES[address] in told(capfd)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that it has signed itself, with its key in one file."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")]),
    )
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    made = made.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
        critical=False,
    )
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private
    )
    return file


@pytest.fixture
def safe(serve: Serve, certificate: Path) -> ApiServer:
    """A stand-in that speaks TLS."""
    api, context = serve(None), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    api.http.socket = context.wrap_socket(api.http.socket, server_side=True)
    return api


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_server_with_a_certificate_is_trusted_as_the_kubeconfig_says(
    safe: ApiServer, certificate: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = safe.address.replace("http:", "https:")
    for trust in ({"certificate-authority": str(certificate)}, {"insecure-skip-tls-verify": True}):
        write(tmp_path / "kubeconfig", {"server": address, **trust}, {"token": TOKEN})
        assert client().items(RAYJOBS) == ([], "1000")
        assert capfd.readouterr() == ("", "")
    cases = {
        "not trusted here (self-signed certificate)": ({}, {"token": TOKEN}),
        "with the certificates of the kubeconfig ([X509": (
            {"certificate-authority-data": encoded("hello")},
            {"token": TOKEN},
        ),
        "with the certificates of the kubeconfig ([SSL] PEM": (
            {"certificate-authority": str(certificate)},
            {"client-certificate-data": encoded("a"), "client-key-data": encoded("b")},
        ),
    }
    for words, (cluster, user) in cases.items():
        write(tmp_path / "kubeconfig", {"server": address, **cluster}, user)
        assert words in told(capfd)


def test_without_a_way_to_sign_in_the_user_is_told_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    line = told(capfd)
    assert f"no kubeconfig at {tmp_path}/none" in line and "set KUBECONFIG" in line


def test_a_context_that_does_not_exist_is_named(serve: Serve) -> None:
    serve(None)
    with pytest.raises(
        OrchestratorError, match="cluster.context=elsewhere: the kubeconfig cannot be used"
    ):
        client("cluster.context=elsewhere")


def test_a_pod_signs_in_with_its_own_account(
    monkeypatch: pytest.MonkeyPatch, safe: ApiServer, certificate: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    host, port = safe.address.removeprefix("http://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    (tmp_path / "token").write_text(TOKEN)
    for name, file in {
        "SERVICE_TOKEN_FILENAME": tmp_path / "token",
        "SERVICE_CERT_FILENAME": certificate,
    }.items():
        monkeypatch.setattr(f"kubernetes.config.incluster_config.{name}", str(file))
    assert client().items(RAYJOBS) == ([], "1000")
