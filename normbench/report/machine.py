"""report.json: the content of a report for machines. Equal runs give equal bytes: no date of now, no absolute path."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from normbench.report import exports
from normbench.report.arms import Arm
from normbench.report.content import Content, asked
from normbench.report.figures import Drawn
from normbench.report.study import Study
from normbench.report.style import norm_looks

SCHEMA_VERSION = 1
ORIGIN = (
    "normbench_version", "torch_version", "results_version", "git_commit", "device", "threads", "data_fingerprint",
)  # fmt: skip


def report_json(study: Study, content: Content, formats: Sequence[str], keys: Sequence[str]) -> bytes:
    """UTF-8 JSON. Not measured: null; without an end: "inf" or "-inf", which JSON has no number for."""
    used = study.used
    found = {
        "schema_version": SCHEMA_VERSION,
        "title": content.title,
        "verdict": content.verdict,
        "options": _options(study) | {"figures": list(keys), "formats": list(formats)},
        "counts": {"found": len(study.runs), "used": len(used), "states": _counted(study.runs["state"])},
        "verdicts": _verdicts(study),
        "arms": [_arm(study, arm) for arm in study.arms],
        "figures": [_figure(drawn, formats) for drawn in content.drawn],
        "not_drawn": [{"name": name, "reason": reason} for name, reason in content.missing],
        "notes": list(content.notes),
        "methods": content.methods,
        "versions": {key: sorted({_plain(v) for v in used[key] if v is not None}, key=str) for key in ORIGIN},
        "newest_run": max(map(str, used["finished_at"].dropna()), default=None),
        "norm_colours": {norm: colour for norm, (colour, _) in norm_looks(used["norm"]).items()},
        "claim": _claim(study, content),
        "not_complete": _not_complete(study.runs),
    }
    return (json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _options(study: Study) -> dict[str, Any]:
    o = study.options
    return {
        "target": o.target, "baseline": "=".join(o.baseline) if o.baseline else None, "x": o.x,
        "tuned": list(o.tuned), "tune_seeds": sorted(o.tune_seeds) if o.tune_seeds is not None else None,
        "compared_by": o.plan.command if o.plan else None,
    }  # fmt: skip


def _verdicts(study: Study) -> list[dict[str, Any]]:
    found = []
    for number, contrast in enumerate(study.contrasts):
        for place, (choice, row) in enumerate(exports.judged(contrast)):
            told = {key: _plain(value) for key, value in vars(row).items()}
            told["flags"] = [flag for flag in row.flags.split(";") if flag]
            about = {"contrast": number, "headline": place == 0, "key": contrast.key, "where": _setting(contrast.where)}
            about |= {"lr_choice": choice, "target": contrast.target, "target_post_hoc": contrast.post_hoc}
            found.append(about | told)
    return found


def _claim(study: Study, content: Content) -> dict[str, Any] | None:
    tested = content.tested
    if tested is None:
        return None
    answers = [
        {"question": vars(a.question) | {"where": list(a.question.where)}, "where": a.where, "verdict": a.verdict,
         "asked": asked(a), "effect": a.effect, "why": a.why,
         "of": {str(s): _plain(v) for s, v in a.sides[0].items()},
         "than": {str(s): _plain(v) for s, v in a.sides[1].items()},
         "row": {key: _plain(value) for key, value in vars(a.row).items()}}
        for a in tested.answers
    ]  # fmt: skip
    c = tested.claim
    told = {key: getattr(c, key) for key in ("name", "claim", "source", "words", "number", "remark")}
    if tested.published and c.paper:
        told["paper"] = vars(tested.published) | vars(c.paper) | {"setting": list(c.paper.setting)}
    told["runs"] = {
        "n": len(study.used), "seeds": study.used["seed"].nunique(), "train_s": float(study.used["train_s"].sum()),
        **{key: sorted({str(value) for value in study.used[key]}) for key in ("dataset", "model")},
    }  # fmt: skip
    told |= {"figure": content.lead[0].name if content.lead else None, "targets": list(c.targets)}
    return told | {"budget": c.budget, "verdict": tested.verdict, "answers": answers}


def _arm(study: Study, arm: Arm) -> dict[str, Any]:
    s = arm.selection
    rates = arm.runs.set_index("run_id")["lr"].astype(float)
    chosen = {
        "metric": s.metric, "how": s.how, "best": list(s.best), "n_settings": s.n_settings,
        "n_finished": s.n_finished, "tuned": list(s.tune),
        "counts": [{"setting": list(setting), "n": n} for setting, n in s.counts.items()],
        "at_edge": [edge.wider for edge in s.edges], "unstable": s.unstable,
    } if s else None  # fmt: skip
    scores = arm.column("test_score", arm.reported)
    return {
        "name": study.name(arm), "setting": _setting(arm.setting), "lrs": sorted({float(lr) for lr in rates}),
        "selection": chosen, "no_selection_because": arm.why or None,
        "reported": [
            {"seed": seed, "run_id": i, "lr": float(rates[i]), "test_acc": _plain(scores.get(seed))}
            for seed, i in arm.reported.items()
        ],
        "diverged": arm.diverged(arm.reported),
    }  # fmt: skip


def _setting(setting: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in setting.items() if value != ""}


def _figure(drawn: Drawn, formats: Sequence[str]) -> dict[str, Any]:
    kinds = [kind for kind in ("svg", "pdf", "png", "csv") if kind in formats and (kind != "csv" or len(drawn.data))]
    return {"name": drawn.name, "caption": drawn.caption, "files": [f"figures/{drawn.name}.{kind}" for kind in kinds]}


def _not_complete(runs: pd.DataFrame) -> list[dict[str, Any]]:
    rest = runs[runs["state"].ne("complete") | ~runs["used"].astype(bool)]
    rows = rest[["run_id", "state", "used", "reason", "folder"]].to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _counted(states: pd.Series) -> dict[str, int]:
    return {str(state): int(n) for state, n in states.value_counts().sort_index().items()}


def _plain(value: Any) -> Any:
    """A value of JSON: what numpy and pandas bring becomes Python's own."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return str(value) if isinstance(value, str) else value
