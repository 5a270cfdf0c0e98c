"""The Dockerfile, replayed step by step without Docker, and the commands of k8s/README.md as far as
they need no cluster.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.manifests import COMPONENTS, K8S, KUBECTL, SECRETS, build, kustomize, named
from tests.support.policy import PINNED, PLACEHOLDER, placeholders, problems

ROOT = K8S.parent
HADOLINT = Path(sys.executable).parent / "hadolint"
PACKAGES = Path(yaml.__file__).parent.parent
Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile as (name, rest), comments left out and continued lines
    joined.
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


DOCKERFILE = instructions((K8S / "Dockerfile").read_text(encoding="utf-8"))
RUNS = [rest for name, rest in DOCKERFILE if name == "RUN"]


def copies() -> list[tuple[list[str], str]]:
    """Sources and target of every COPY."""
    return [
        (words[:-1], words[-1])
        for name, rest in DOCKERFILE
        if name == "COPY"
        for words in [rest.split()]
    ]


def test_the_dockerfile_lints_clean_and_the_linter_works(tmp_path: Path) -> None:
    done = subprocess.run([HADOLINT, K8S / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd / && sudo pip install x\n")
    assert subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True).returncode == 1


def test_the_base_image_is_pinned_by_a_digest_that_the_user_must_give() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert [rest for name, rest in DOCKERFILE if name == "FROM"] == [
        f"docker.io/rayproject/ray:{pinned['ray']}-py311-cpu@${{RAY_DIGEST}}"
    ]
    assert DOCKERFILE[0] == ("ARG", "RAY_DIGEST")
    assert named(build("+cluster"), "RayCluster")["shared"]["spec"]["rayVersion"] == pinned["ray"]
    assert f"rayproject/ray:{pinned['ray']}-py311-cpu " in (K8S / "README.md").read_text()


def test_the_image_runs_as_nobody_special() -> None:
    users = [rest for name, rest in DOCKERFILE if name == "USER"]
    assert users[-1] == "1000"
    steps = [(name, rest) for name, rest in DOCKERFILE if name in ("USER", "RUN")]
    as_root = steps[steps.index(("USER", "0")) + 1 : steps.index(("USER", "1000"))]
    assert [rest.split()[0] for _, rest in as_root] == ["install"]


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = [
        line
        for line in (K8S / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sources = {source for found, _ in copies() for source in found}
    assert lines[0] == "*" and {line[1:] for line in lines if line.startswith("!")} == sources
    left_out = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    files = [
        f
        for source in sources
        for f in ([ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*"))
        if f.is_file()
    ]
    kept = [
        f
        for f in files
        if not any(
            fnmatch.fnmatch(part, pattern)
            for part in f.relative_to(ROOT).parts
            for pattern in left_out
        )
    ]
    assert all((ROOT / source).exists() for source in sources)
    assert sum(f.stat().st_size for f in kept) < 12_000_000, "7 of it are the applications' rows"
    assert not any(f.suffix == ".pyc" for f in kept)


def test_what_is_installed_beyond_the_constraints_is_pinned_too() -> None:
    lines = [
        line
        for line in (K8S / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert lines and all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", line) for line in lines)
    installs = [command for run in RUNS for command in run.split("&&") if "pip install" in command]
    assert len(installs) == 2
    for command in installs:
        assert (
            "--constraint constraints.txt" in command
            or "$(grep '^torch==' constraints.txt)" in command
        )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a file system in which every step of the Dockerfile was done, but the
    dependencies are this environment's.
    """
    root = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    for name, rest in DOCKERFILE:
        if name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = root / "app" / target / (Path(source).name if target.endswith("/") else "")
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(
                        ROOT / source,
                        place,
                        dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
                    )
                else:
                    shutil.copy(ROOT / source, place)
        elif name == "RUN":
            replay(root, rest)
    return root


def replay(root: Path, command: str) -> None:
    """One RUN under `root`. Only what would need the network or the Ray image is changed, and each
    change must find its place.
    """
    if command.startswith("install -d"):
        folders = command.replace("-o 1000 -g 100 ", "").replace(" /", f" {root}/")
        assert folders != command
        shell(root, folders, cwd=root)
    elif "TORCH_INDEX" in command:
        found = shell(
            root,
            command.replace("pip install --no-cache-dir --no-deps --index-url", "printf '%s %s'"),
        )
        assert re.fullmatch(r"https://x torch==[\d.]+", found), found
    elif "pip install" in command:
        pip = f"{sys.executable} -m pip --python {root}/venv/bin/python install --no-deps --no-build-isolation --no-index"
        changed = command.replace("pip install", pip).replace(
            "--requirement k8s/requirements.txt", ""
        )
        assert changed.count(pip) == 1
        shell(root, changed)
    else:
        shell(root, command)


def shell(root: Path, command: str, cwd: Path | None = None, **variables: str) -> str:
    """What a command prints that runs as in the image: the python of its own, the dependencies of
    this environment.
    """
    environment = {
        "PATH": f"{root}/venv/bin:{os.environ['PATH']}",
        "PYTHONPATH": f"{root}/app:{PACKAGES}",
        "ORCHESTRATOR_CACHE": f"{root}/opt/models",
        "TORCH_INDEX": "https://x",
        "BASE_MODEL": "tiny",
        "HOME": str(root),
        **variables,
    }
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=cwd or root / "app",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_steps_of_the_dockerfile_leave_a_program_that_runs(image: Path) -> None:
    code = "import orchestrator, jobs, importlib.metadata as m; print(orchestrator.__file__, jobs.__file__, m.version('slm-orchestrator'))"
    # Its own packages before this environment's, which may hold another checkout of the same
    # project.
    own = next((image / "venv").rglob("site-packages"))
    found = shell(image, f'python -c "{code}"', cwd=image, PYTHONPATH=f"{own}:{PACKAGES}").split()
    assert found[:2] == [f"{image}/app/orchestrator/__init__.py", f"{image}/app/jobs/__init__.py"]
    assert "adapter" in shell(image, "python -m orchestrator --help")
    assert list((image / "opt/models").rglob("*.safetensors"))


def test_the_project_and_its_constraints_agree(image: Path) -> None:
    """Every dependency is met by what is installed here, which constraints.txt pins: pip has
    nothing to fetch and nothing to change.
    """
    command = f"{sys.executable} -m pip install --dry-run --no-index --no-build-isolation --constraint constraints.txt --editable ."
    report = shell(image, command, PYTHONPATH="", PATH=os.environ["PATH"])
    assert re.findall(r"Would install (.*)", report) in ([], ["slm-orchestrator-0.1.0"])


def test_the_setup_job_puts_the_model_of_the_image_into_the_shared_cache(
    image: Path, tmp_path: Path
) -> None:
    pod = named(build("base"), "CronJob")["setup"]["spec"]["jobTemplate"]["spec"]["template"][
        "spec"
    ]
    container = pod["containers"][0]
    variables = {item["name"]: item["value"] for item in container["env"]}
    assert (
        container["command"] == ["sh", "-euc"]
        and variables["ORCHESTRATOR_CACHE"] == "/mnt/shared/cache"
    )
    variables |= {
        "ORCHESTRATOR_CACHE": f"{tmp_path}/cache",
        "BAKED": f"{image}/opt/models",
        "MODEL": "tiny",
    }
    found = shell(image, container["args"][0], **variables)
    assert re.search(rf"base +tiny is ready in {tmp_path}/cache/", found), found
    told = shell(image, "python -m orchestrator job=setup model=tiny dry_run=true", **variables)
    assert "nothing to fetch" in told


# The commands of the README


def commands(*beginnings: str) -> str:
    """The lines of README.md's shell blocks that start so, with their continuations."""
    blocks = re.findall(
        r"```bash\n(.*?)```", (K8S / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return "\n".join(line for line in lines if line.startswith(beginnings))


def test_the_commands_that_make_secrets_make_what_the_manifests_name(tmp_path: Path) -> None:
    script = commands("password=", "kubectl -n sweeps create secret").replace(
        "sweeps create secret", "sweeps create --dry-run=client -o yaml secret"
    )
    script = script.replace("\nkubectl", "\necho ---\nkubectl")
    names = dict.fromkeys(("KEY_ID", "SECRET_KEY", "REGION", "ENDPOINT", "BUCKET"), "x")
    environment = {"PATH": f"{KUBECTL.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), **names}
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    made = {item["metadata"]["name"]: item["data"] for item in yaml.safe_load_all(done.stdout)}
    assert {name: set(data) for name, data in made.items()} == SECRETS
    assert len(made["ray-token"]["auth_token"]) >= 64


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_an_overlay_names_what_is_missing_until_the_readme_was_followed(
    overlay: str, tmp_path: Path
) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays" / overlay / "kustomization.yaml"
    parts = yaml.safe_load(file.read_text())
    more = [
        name
        for name in COMPONENTS
        if name not in ("kueue", "autoscaling")
        and f"../../components/{name}" not in parts["components"]
    ]
    parts["components"] += [f"../../components/{name}" for name in more]
    file.write_text(yaml.safe_dump(parts))
    apply = 'if grep -n REPLACE sweeps.yaml; then echo "fill these in first"; else kubectl apply --server-side -f sweeps.yaml; fi'
    assert apply in commands("if grep")

    unfilled = list(yaml.safe_load_all(kustomize(file.parent)))
    assert {image for manifest in unfilled for image in placeholders(manifest)} >= {
        f"REPLACE_REGISTRY/slm-orchestrator@sha256:{PLACEHOLDER}_ORCHESTRATOR_DIGEST",
        f"docker.io/library/postgres:17@sha256:{PLACEHOLDER}_POSTGRES_DIGEST",
    }
    assert not any(
        PINNED.fullmatch(image) for manifest in unfilled for image in placeholders(manifest)
    )

    api_server = (
        "api_server() { case $1 in *addresses*) echo 10.0.0.1 10.0.0.2;; *) echo 8443;; esac; }"
    )
    script = "\n".join(
        [
            f"overlay=k8s/overlays/{overlay}",
            "digest() { printf '%064d' ${#1}; }",
            api_server,
            commands("blocks=", "sed -i.bak"),
        ]
    )
    environment = {
        **os.environ,
        "REGISTRY": "registry.example.com:5000/team",
        "STORAGE_CLASS": "shared",
    }
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True)
    text = kustomize(file.parent)
    assert PLACEHOLDER not in text
    filled = list(yaml.safe_load_all(text))
    assert [text for manifest in filled for text in problems(manifest)] == []
    egress = named(filled, "NetworkPolicy")["submitter"]["spec"]["egress"][0]
    assert [block["ipBlock"]["cidr"] for block in egress["to"]] == ["10.0.0.1/32", "10.0.0.2/32"], (
        "each of several API servers"
    )
    assert egress["ports"] == [{"protocol": "TCP", "port": 8443}]
    sweep = named(filled, "CronJob")["sweep"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert {"name": "IMAGE", "value": sweep["image"]} in sweep["env"]
