"""From a version to a file that ships: written, checked against the trained model, scored.

The folder holds the file, the tokenizer, task.json (what the task puts around a prompt),
export.json (all that was measured), README.md for people, and a Modelfile for Ollama. It appears
when everything in it is right.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config import BaseModel
from jobs.data.chat_template import TODAY, ChatTokenizer
from jobs.data.version_rows import copy_rows
from jobs.export import (
    fidelity,
    gguf_base,
    k_quants,
    onnx_model,
    shipped_card,
    speed,
    weights_check,
)
from jobs.export.divergence import model_reference, of_prompts
from jobs.export.formats import FORMATS, GGUF, Format
from jobs.export.gguf_adapter import write_adapter
from jobs.export.gguf_model import Provenance, rounded_again, write_model
from jobs.export.merged_model import MergedModel, merged_model, save_merged
from jobs.export.model_folder import copy_tokenizer, write
from jobs.export.shipped_scores import answer_all, bits_per_byte, chosen_rows, scores_of
from jobs.export.transformers_check import check_saved
from jobs.files import manifest
from jobs.llama_cpp.runtime import Runtime, check_installed
from jobs.onnx_genai import runtime as onnx_runtime
from jobs.onnx_genai.runtime import OnnxRuntime

REPORT = "export.json"


@dataclass(frozen=True)
class ShipmentSettings:
    """How a version is exported."""

    uri: str
    name: str
    """Of the model, for people and file names."""
    score: bool = True
    rows: int | None = None
    """Test rows that the file is scored on; None: all."""
    threads: tuple[int, ...] = (1, 2, 4)
    confidence: float = 0.95
    made_by: dict[str, Any] | None = None
    """Settings that are kept in the report, by which a later command sees whether it needs another
    file.
    """


def say(line: str) -> None:
    """One line for people."""
    print(line, file=sys.stderr, flush=True)


def version_digest(version: Path) -> str | None:
    """What tells one version's content from another's."""
    sums = version / manifest.NAME
    return manifest.digest(sums) if sums.exists() else None


class Shipment:
    """One version on its way into one form."""

    def __init__(
        self,
        version: Path,
        base: BaseModel,
        form: Format,
        settings: ShipmentSettings,
        tell: Callable[[str], None] = say,
    ) -> None:
        self.version, self.base, self.form, self.settings = version, base, form, settings
        self.tell = tell
        self.described = json.loads((version / "base.json").read_text(encoding="utf-8"))
        task = json.loads((version / "task.json").read_text(encoding="utf-8"))
        self.task = {"today": TODAY} | task
        self.template = ChatTokenizer(base.path, self.task["today"])
        self.trained = version / "adapter"
        if not self.trained.exists():
            self.trained = version / "model"
        self.context = self.task["max_length"] + self.task["max_new_tokens"]

    def run(self, target: Path) -> dict[str, Any]:
        """Write `target` anew; returns what export.json says. Raises ValueError with the reason
        where the version cannot take this form, or the file is not the trained model.
        """
        self.check_possible()
        draft = target.with_name(f".{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            report = self.fill(draft)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return report | {"folder": str(target)}

    def check_possible(self) -> None:
        """Raise ValueError, before anything large is loaded, for a form that cannot be made."""
        if self.form.kind == "gguf-adapter" and self.trained.name != "adapter":
            raise ValueError(
                "it was trained with all weights and has no adapter; export the whole model, such "
                "as export.format=gguf-q8_0"
            )
        if self.form.kind == "gguf-k":
            k_quants.check_installed()
        if self.form.kind == "onnx":
            onnx_runtime.check_installed()
        elif self.form.kind != "safetensors":
            check_installed()

    def fill(self, draft: Path) -> dict[str, Any]:
        """All files of the folder."""
        self.tell(f"merging {self.settings.uri} with {self.base.name}")
        merged = merged_model(self.base, self.trained)
        copy_tokenizer(self.base, draft / "tokenizer")
        for name in ("config.json", "generation_config.json"):
            source = Path(self.base.path) / name  # they name the end tokens
            if source.exists():
                shutil.copyfile(source, draft / "tokenizer" / name)
        write(draft / "task.json", self.task)
        copy_rows(self.version, draft)
        files = self.write_files(draft, merged)
        report: dict[str, Any] = {
            "format": self.form.name,
            "name": self.settings.name,
            "version": self.settings.uri,
            "version_digest": version_digest(self.version),
            "file": files[-1].name,
            "base": self.described,
        }
        if self.settings.made_by is not None:
            report["made_by"] = self.settings.made_by
        if self.form.kind == "gguf-adapter":
            report["base_file"] = str(files[0])
            report["base_sha256"] = manifest.digest(files[0])
        self.tell(f"checking {files[-1].name} against the trained model")
        if self.form.kind == "safetensors":
            report["check"] = check_saved(files[-1], merged, self.prompts())
        else:
            report["check"] = self.check_file(files, merged)
            if self.settings.score:
                report |= self.score(files, merged, draft)
        write(draft / REPORT, report)
        shipped_card.write_files(draft, report, self.task, self.version)
        manifest.seal(draft)
        return report

    def prompts(self) -> list[list[int]]:
        """What is asked to compare file and model."""
        rows = fidelity.held_out_prompts(self.version, self.template)
        return rows or [self.template.encode(question) for question in fidelity.QUESTIONS]

    def provenance(self) -> Provenance:
        """What the file tells of itself."""
        of_base, _ = shipped_card.licences(self.version)
        score = shipped_card.score_line(self.version)
        return Provenance(
            self.settings.name,
            f"{self.settings.name}: {score}" if score else self.settings.name,
            self.base.name,
            self.base.id,
            self.base.revision,
            self.task.get("data") or shipped_card.data_name(self.version),
            of_base,
        )

    def write_files(self, draft: Path, merged: MergedModel) -> list[Path]:
        """The files that serving needs: of an adapter the base's and its own, else one."""
        if self.form.kind == "safetensors":
            save_merged(merged, self.base, draft / "model")
            return [draft / "model"]
        if self.form.kind == "onnx":
            return [self.write_onnx(draft, merged)]
        target = draft / f"{self.settings.name}-{self.form.name.removeprefix('gguf-')}.gguf"
        config = merged.model.config
        if self.form.kind == "gguf-adapter":
            base_file = gguf_base.base_file(self.base, self.described, self.task)
            instruction = self.task.get("instruction") or ""
            write_adapter(self.trained, config, target, self.provenance(), instruction)
            return [base_file, target]
        self.tell(f"writing {target.name}")
        form = FORMATS[GGUF] if self.form.kind == "gguf-k" else self.form
        source = gguf_base.source_file(self.base, self.described)
        if source is not None and (loss := rounded_again(source, self.form)) is not None:
            self.tell(f"note: {loss}")
        weights = merged.model.state_dict()
        written = target.with_suffix(".f16") if self.form.kind == "gguf-k" else target
        write_model(
            *(weights, config, Path(self.base.path), self.task, form, written),
            *(self.provenance(), source, merged.changed),
        )
        if self.form.kind == "gguf-k":
            k_quants.quantize(written, target, self.form)
            written.unlink()
        return [target]

    def write_onnx(self, draft: Path, merged: MergedModel) -> Path:
        """The folder that onnxruntime-genai loads."""
        target = draft / "model"
        self.tell(f"writing {self.form.name}")
        with tempfile.TemporaryDirectory(prefix="merged-", dir=draft) as folder:
            save_merged(merged, self.base, Path(folder))
            onnx_model.write_onnx(Path(folder), target, self.form, self.template)
        return target

    def check_file(self, files: Sequence[Path], merged: MergedModel) -> dict[str, Any]:
        """Raise ValueError, naming the file, where it is not the trained model."""
        try:
            config = merged.model.config
            if self.form.kind == "onnx":
                onnx_model.check_ends(files[0], self.template)
            elif self.form.kind == "gguf-adapter":
                weights_check.check_adapter(files[-1], self.trained, config)
            else:
                weights = merged.model.state_dict()
                weights_check.check_weights(files[-1], weights, config, self.form, merged.changed)
            return self.ask_file(files, merged)
        except ValueError as error:
            raise ValueError(f"{files[-1].name} is not the trained model: {error}") from error

    def ask_file(self, files: Sequence[Path], merged: MergedModel) -> dict[str, Any]:
        """What the file answers in its runtime, against the trained model."""
        adapter = 0 if len(files) > 1 else None
        reference, prompts = model_reference(merged.model), self.prompts()
        with self.opened(files, self.threads()) as runtime:
            count = fidelity.check_chat(runtime, self.template, self.task)
            if isinstance(runtime, Runtime):
                fidelity.check_ends(runtime, self.template, files[0])
            measured = fidelity.check_answers(runtime, reference, prompts, self.form, adapter)
            record: dict[str, Any] = {"prompts": count, **measured.record()}
            if adapter is not None:
                without = of_prompts(runtime, reference, prompts[:2], fidelity.MOST_TOKENS)
                record["without_adapter"] = without.record()
        return record

    def opened(self, files: Sequence[Path], threads: int, slots: int = 1) -> Runtime | OnnxRuntime:
        """The files in their runtime."""
        if self.form.kind == "onnx":
            return OnnxRuntime(files[0], threads)
        return Runtime(files[0], files[1:], self.context, slots, threads)

    def threads(self) -> int:
        """How many threads answer while it is scored."""
        cores = os.cpu_count() or 1
        return max([count for count in self.settings.threads if count <= cores], default=1)

    def score(self, files: Sequence[Path], merged: MergedModel, draft: Path) -> dict[str, Any]:
        """What the file scores on the test rows, and what it costs."""
        rows = chosen_rows(fidelity.held_out_rows(self.version), self.settings.rows)
        if not rows:
            return {"note": "the version holds no test rows, so the file has no score"}
        self.tell(f"scoring {files[-1].name} on {len(rows):,} test rows")
        adapter = 0 if len(files) > 1 else None
        with self.opened(files, self.threads(), slots=4) as runtime:
            answers, measured = answer_all(
                runtime,
                rows,
                self.template,
                self.task["max_new_tokens"],
                model_reference(merged.model),
                adapter,
            )
            bits = bits_per_byte(runtime, rows, self.template, adapter)
        scores = scores_of(rows, answers, self.task, self.settings.confidence)
        shipped: list[dict[str, Any]] = [{"shipped": answer} for answer in answers]
        if scores.per_row:
            for entry, score in zip(shipped, scores.per_row, strict=True):
                entry["shipped_score"] = score
        lines = [
            json.dumps(row | entry, ensure_ascii=False)
            for row, entry in zip(rows, shipped, strict=True)
        ]
        (draft / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.tell(f"measuring {files[-1].name}")
        by_length = sorted((self.template.encode(row["text"]) for row in rows), key=len)
        prompt = by_length[len(by_length) // 2]
        return {
            "scores": scores.record() | ({} if bits is None else {"bits_per_byte": round(bits, 6)}),
            "divergence": measured.record(),
            "costs": speed.costs(
                files, prompt, self.settings.threads, lambda count: self.opened(files, count)
            ),
        }
