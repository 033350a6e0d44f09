"""The comparison carried out, and what is said at its end: the ledger, the report, its verdicts, what to type next."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from normbench import plan as plans
from normbench.compare import rounds, search, space, telling
from normbench.compare.arms import Contender
from normbench.compare.asked import FIRST_TUNE_SEED
from normbench.compare.launch import Launch
from normbench.compare.planning import another
from normbench.compare.rounds import Tuned
from normbench.plan import Plan, Range
from normbench.report.planning import FEWEST
from normbench.report.selection import Edge
from normbench.sweep.pool import TimeUp

OVER = "runs took longer than predicted, so the rounds of trials after the first were left out, in every arm alike"
UNSURE = "; nor can more, as "  # likewise
NEEDED = re.compile(r"; about (\d+) would(?: be needed to know |, if it is)")  # in the sentence of an unclear verdict


def carried_out(
    contenders: Sequence[Contender], plan: Plan, folder: Path, launch: Launch, args: Sequence[str],
    may_shorten: bool = False,
) -> int:  # fmt: skip
    """The exit code. may_shorten: a further round of trials is left out if it leaves no time for a verdict."""
    late, found = False, list[Tuned]()
    try:
        found = rounds.tune(contenders, plan, launch, *([_fits(contenders, plan, launch)] if may_shorten else []))
        if (shorter := rounds.shortened(plan, found)) is not plan:
            print(f"{OVER}: {shorter.trials} trials each")
            plans.write(folder, plan := replace(shorter, more=(*shorter.more, OVER)))
        print(ledger(found, plan), flush=True)
        rounds.confirm(found, plan, launch)
    except TimeUp:
        late = True
        print("the budget is spent: what was being trained has been stopped; the same command goes on", flush=True)
    for place, words in launch.problems.items():
        print(f"  {words} ({place})")
    code = _report(folder, plan, args, late)
    if edges := [edge for arm in found for edge in arm.edges if not arm.alike]:  # of those there is no best
        print(f"\nto look beyond what was tried: {farther(args, edges, folder.name)}")
    if launch.problems:
        count = len(launch.problems)
        print(f"{count} run{'s' * (count != 1)} failed; the same command tries again")
    return code or bool(launch.problems)


def _fits(contenders: Sequence[Contender], plan: Plan, launch: Launch) -> Callable[[int], bool]:
    """Whether a further round leaves time for the seeds without which there is no verdict."""
    counts, seeds = search.per_round(plan.trials, plan.zoom), min(FEWEST, len(plan.seeds))
    confirming = seeds * (len(contenders) + sum(rounds.extra(contenders)))
    return lambda number: launch.has_time_for(len(contenders) * counts[number] * len(plan.tune_seeds) + confirming)


def ledger(found: Sequence[Tuned], plan: Plan) -> str:
    """What each arm was given, and what was chosen."""
    if not plan.tuned:
        return "nothing is tuned: every arm is reported as it is"
    seeds = telling.seeds(plan.tune_seeds)
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
        end = "; at the end of what was tried: " + ", ".join(e.setting for e in arm.edges) if arm.edges else ""
        lines.append(f"{name}  {words}, best of {counts}, validation accuracy {arm.mean():.4f} over {seeds}{end}")
        if arm.alike:
            lines.append(f"  {' ' * width}  all its trials came out alike: diverged or untrained; try another range")
    return "\n".join(lines)


def _report(folder: Path, plan: Plan, args: Sequence[str], late: bool) -> int:
    """Write the report, say its verdicts."""
    from normbench import report

    code = report.main([str(folder)])
    if code:
        if late:
            print("no verdict: no seed that is reported has been trained so far")
            return 0
        return code
    from normbench.report.content import SYMBOLS
    from normbench.report.state import State

    made = json.loads((folder / "report" / "report.json").read_text())
    headlines = [verdict for verdict in made["verdicts"] if verdict["headline"]]
    for verdict in headlines:
        print(f"\n{SYMBOLS[State(verdict['state'])]} {verdict['state']}  {verdict['sentence']}")
    unclear = [verdict["sentence"] for verdict in headlines if verdict["state"] == "UNCLEAR"]
    counts = [int(found[1]) for sentence in unclear if (found := NEEDED.search(sentence))]
    if needed := [count for count in counts if count <= FIRST_TUNE_SEED]:
        print(f"\nto know more: {more_seeds(args, max(needed))}")
    elif any(UNSURE in sentence for sentence in unclear):
        print(f"\nto know more: {more_that_choose(args, plan, folder.name)}")
    return 0


def more_that_choose(args: Sequence[str], plan: Plan, name: str) -> str:
    """The same comparison, chosen by twice as many seeds, and at least four, in a folder of its own."""
    kept = [arg for arg in args if not arg.startswith(("tune_seeds=", "name="))]
    count = max(4, 2 * len(plan.tune_seeds))
    return shlex.join(["normbench", "compare", *kept, f"tune_seeds={count}", f"name={another(name)}"])


def more_seeds(args: Sequence[str], count: int) -> str:
    """The same command with so many seeds."""
    kept = [arg for arg in args if not arg.startswith("seeds=")]
    return shlex.join(["normbench", "compare", *kept, f"seeds={count}"])


def farther(args: Sequence[str], edges: Sequence[Edge], name: str) -> str:
    """The same command where every best that lies at an end is inside, in a folder of its own."""
    spans: dict[str, Range] = {}
    more: dict[str, str] = {}
    for edge in edges:
        typed = [part.partition("=")[::2] for part in shlex.split(edge.wider)]
        for key, text in typed:
            span = space.read(key.removeprefix("tune."), text, 0.0) if key.startswith("tune.") else None
            if isinstance(span, Range):
                before = spans.setdefault(key, span)
                spans[key] = replace(before, low=min(before.low, span.low), high=max(before.high, span.high))
            else:
                more[key] = text
    more = {key: f"{s.scale}({s.low:.12g},{s.high:.12g})" for key, s in spans.items()} | more | {"name": another(name)}
    kept = [arg for arg in args if arg.partition("=")[0] not in more]
    return shlex.join(["normbench", "compare", *kept, *(f"{key}={text}" for key, text in more.items())])
