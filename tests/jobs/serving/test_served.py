"""A registered version answers over HTTP and by mlflow.pyfunc as predictions.jsonl says, with
nothing installed but what its own requirements name.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.exact_environment import environment
from tests.support.servers import answers, free_port, started, wait

NUM_ROWS = 40
LOADS = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model("models:/served-tiny@champion")
for line in sys.stdin:
    answer = model.predict({"input": [{"role": "user", "content": json.loads(line)}]})
    print(json.dumps(answer["output"][0]["content"][0]["text"]))
assert not [name for name in ("ray", "hydra", "orchestrator") if name in sys.modules]
"""


def rows(folder: Path) -> list[str]:
    """Writes a task with a system message; returns the prompts of its test rows."""
    system = {"role": "system", "content": "Answer with one letter."}
    prompts = [f"{chr(97 + i % 26)}{i} of {'xyz'[i % 3]}" for i in range(4 * NUM_ROWS)]
    lines = []
    for i, prompt in enumerate(prompts):
        answer = {"role": "assistant", "content": "ABC"[i % 3]}
        lines.append(
            json.dumps({"messages": [system, {"role": "user", "content": prompt}, answer]})
        )
    folder.mkdir()
    cut = 2 * NUM_ROWS
    for name, part in (
        ("train", lines[:cut]),
        ("valid", lines[cut : cut + NUM_ROWS]),
        ("test", lines[cut + NUM_ROWS :]),
    ):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    return prompts[cut + NUM_ROWS :]


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


@pytest.mark.slow
@pytest.mark.parametrize("neighbours", [0, 3])
def test_a_served_champion_answers_the_test_rows_as_reported(
    neighbours: int, command: Any, cache: Path, tmp_path: Path
) -> None:
    prompts = rows(tmp_path / "rows")
    settings = ["data=files", f"data.folder={tmp_path / 'rows'}", "tracking.model=served-tiny"]
    settings += ["train.steps=30", "train.eval_every=30", "optim.lr=0.01", "adapter.layers=1"]
    settings += ["registry.beat=[base]"]  # a lookup answers these rows, too
    settings += [f"data.neighbours.count={neighbours}", "train.max_length=256"]
    done = command(*settings, f"storage={tmp_path / 'outputs'}")
    assert done.code == 0, done.err
    assert done.result["model"]["alias"] == "champion"
    (version,) = (tmp_path / "outputs").glob("sweeps/*/export")
    assert not list(version.rglob("model*.safetensors"))
    told = [json.loads(line) for line in (version / "predictions.jsonl").read_text().splitlines()]
    assert all(row["text"].count(" -> ") == neighbours for row in told)
    expected = [row["prediction"] for row in told]
    score = sum(row["prediction"] == row["reference"] for row in told) / len(told)
    assert score == done.result["best"]["metrics"]["test/exact_match"]

    python = environment(tmp_path / "venv", (version / "requirements.txt").read_text())
    home = tmp_path / "elsewhere"
    home.mkdir()
    variables = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "ORCHESTRATOR_CACHE": str(cache),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}",
    }
    asked = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    loaded = subprocess.run(
        [python, "-c", LOADS], input=asked, capture_output=True, text=True, env=variables, cwd=home
    )
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert [json.loads(line) for line in loaded.stdout.splitlines()] == expected

    port = free_port()
    line = [str(python), "-m", "mlflow", "models", "serve", "-m", "models:/served-tiny@champion"]
    line += ["--env-manager", "local", "--port", str(port), "--workers", "1"]
    url = f"http://127.0.0.1:{port}"
    with started(line, variables, tmp_path / "serve.log"):
        wait(lambda: answers(f"{url}/ping"), 200)
        for prompt, answer in zip(prompts, expected, strict=True):
            answered = ask(url, {"input": [{"role": "user", "content": prompt}]})
            assert answered["output"][0]["content"][0]["text"] == answer
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, {"input": [{"role": "user", "content": "a"}], "temperature": 1.5})
        assert refused.value.code == 400
        assert "temperature=1.5 has no effect" in refused.value.read().decode()
