"""The plan of a comparison is read as it was written, and a file that is none is named."""

import json

import pytest

from normbench import plan, records
from normbench.plan import Arm, Plan, Range

PLAN = Plan(
    "normbench compare norm=none,bn", (Arm({"norm": "bn"}, (Range("optimizer.lr", "log", 1e-4, 1.0),)), Arm({}, ())),
    "quasirandom", 16, 1, (1000, 1001), (0, 1, 2), ("words",),
)  # fmt: skip


def test_written_and_read_it_is_the_same(tmp_path):
    plan.write(tmp_path, PLAN)
    assert plan.read(tmp_path) == PLAN
    assert PLAN.tuned == ("optimizer.lr",)
    assert plan.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("span", "middle"),
    [(Range("k", "log", 1e-4, 1.0), 0.01), (Range("k", "linear", 0.0, 0.5), 0.25),
     (Range("k", "one_minus_log", 0.9, 0.999), 0.99)],
)  # fmt: skip
def test_a_place_in_a_range_is_even_on_its_scale(span, middle):
    assert [span.value(u) for u in (0, 0.5, 1)] == pytest.approx([span.low, middle, span.high])
    assert [span.place(span.value(u)) for u in (-0.25, 0, 0.3, 1, 1.25)] == pytest.approx([-0.25, 0, 0.3, 1, 1.25])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 1}', '{"format_version": 2}', "null"])
def test_what_is_no_plan_is_named(tmp_path, text):
    (tmp_path / plan.FILE).write_text(text)
    with pytest.raises(records.Damaged, match=r"compare\.json"):
        plan.read(tmp_path)


def test_a_plan_with_a_field_too_many_is_none(tmp_path):
    plan.write(tmp_path, PLAN)
    data = json.loads((tmp_path / plan.FILE).read_text())
    (tmp_path / plan.FILE).write_text(json.dumps(data | {"colour": 1}))
    with pytest.raises(records.Damaged, match="not a plan"):
        plan.read(tmp_path)
