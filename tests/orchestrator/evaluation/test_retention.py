"""What was forgotten over a task, and what a threshold is worth, as the result tells them."""

from __future__ import annotations

from orchestrator.evaluation import model_card
from orchestrator.evaluation.retention import forgetting_of, metrics_of
from orchestrator.output.best_lines import forgetting_texts, threshold_text

BEFORE = {"source": {"general": {"rows": 82.0, "loss": 3.0}, "task": {"rows": 300.0, "loss": 4.0}}}
AFTER = {"source": {"general": {"rows": 82.0, "loss": 3.25}, "task": {"rows": 300.0, "loss": 0.5}}}


def test_forgetting_is_the_rise_of_the_loss_on_what_is_retained() -> None:
    forgetting = forgetting_of(["general"], BEFORE, AFTER)
    assert forgetting == {"general": {"rows": 82.0, "before": 3.0, "after": 3.25, "change": 0.25}}
    assert metrics_of(forgetting) == {"test/forgotten/general": 0.25}
    (line,) = forgetting_texts(forgetting)
    assert line == "general: loss on 82 test rows 3.000 before training, 3.250 after (+0.250)"
    assert "| general | 82 | 3.000 | 3.250 |" in model_card.forgetting_section(forgetting)


def test_what_was_not_measured_is_not_told() -> None:
    assert forgetting_of([], BEFORE, AFTER) == {}
    assert forgetting_of(["general"], None, AFTER) == {}
    assert forgetting_of(["general", "other"], BEFORE, {"source": {"general": {"rows": 1.0}}}) == {}
    assert forgetting_texts({}) == []
    assert model_card.forgetting_section({}) == ""


def test_a_threshold_is_told_with_its_worth() -> None:
    rule = {
        "label": "spam",
        "threshold": 0.91,
        "valid_rows": 180,
        "valid_cost": 0.1,
        "cost": 0.125,
        "cost_at_half": 0.5,
        "calibration_error": 0.03,
        "brier": 0.02,
    }
    line = threshold_text(rule)
    assert '0.125 a row when "spam" is answered from probability 0.910 on' in line
    assert "180 validation rows (0.500 from a half on)" in line
