"""The comparison carried out, and what is said at its end: the ledger, the report, its verdicts, what to type next."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from normbench.compare import rounds
from normbench.compare.arms import Contender
from normbench.compare.launch import Launch
from normbench.compare.rounds import Tuned
from normbench.plan import Plan
from normbench.sweep.pool import TimeUp

NEEDED = re.compile(r"; about (\d+) would be needed to know ")  # in the sentence of an unclear verdict


def carried_out(contenders: Sequence[Contender], plan: Plan, folder: Path, launch: Launch, args: Sequence[str]) -> int:
    """The exit code."""
    late = False
    try:
        found = rounds.tune(contenders, plan, launch)
        print(ledger(found, plan), flush=True)
        rounds.confirm(found, plan, launch)
    except TimeUp:
        late = True
        print("the budget is spent: what was being trained has been stopped; the same command goes on", flush=True)
    for place, words in launch.problems.items():
        print(f"  {words} ({place})")
    code = _report(folder, args, late)
    if launch.problems:
        count = len(launch.problems)
        print(f"{count} run{'s' * (count != 1)} failed; the same command tries again")
    return code or bool(launch.problems)


def ledger(found: Sequence[Tuned], plan: Plan) -> str:
    """What each arm was given, and what was chosen."""
    if not plan.tuned:
        return "nothing is tuned: every arm is reported as it is"
    seeds = ", ".join(map(str, plan.tune_seeds))
    lines = ["chosen:"]
    width = max(len(arm.contender.name) for arm in found)
    for arm in found:
        name = f"  {arm.contender.name:<{width}}"
        if arm.best is None:
            lines.append(f"{name}  nothing: {arm.why}; it is not confirmed, and there is no verdict on it")
            continue
        short = "trained to the end" if plan.halving else "finished"
        counts = f"{len(arm.tried)} trials"
        counts = counts if arm.finished == len(arm.tried) else f"{arm.finished} {short} of {counts}"
        words = arm.contender.words(arm.best)
        lines.append(f"{name}  {words}, best of {counts}, validation accuracy {arm.mean():.4f} over seeds {seeds}")
    return "\n".join(lines)


def _report(folder: Path, args: Sequence[str], late: bool) -> int:
    """Write the report, say its verdicts."""
    from normbench import report

    code = report.main([str(folder)])
    if code:
        if late:
            print("no verdict: no seed that is reported has been trained so far")
            return 0
        return code
    made = json.loads((folder / "report" / "report.json").read_text())
    sentences = [verdict["sentence"] for verdict in made["verdicts"] if verdict["headline"]]
    for sentence in sentences:
        print(f"\n{sentence}")
    unclear = [v["sentence"] for v in made["verdicts"] if v["headline"] and v["state"] == "UNCLEAR"]
    needed = [int(found[1]) for sentence in unclear if (found := NEEDED.search(sentence))]
    if needed:
        print(f"\nto know more: {more_seeds(args, max(needed))}")
    return 0


def more_seeds(args: Sequence[str], count: int) -> str:
    """The same command with so many seeds."""
    kept = [arg for arg in args if not arg.startswith("seeds=")]
    return shlex.join(["normbench", "compare", *kept, f"seeds={count}"])
