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
