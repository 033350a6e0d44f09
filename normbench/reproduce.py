"""`normbench reproduce`: each claim of the documents as one command. It trains, reports, and says what came out.

conf/claim/<name>.yaml holds what is claimed and asked, conf/experiment/<name>.yaml the sweep of its full budget.
"""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from normbench import claim, draws
from normbench.config import NOT_IDENTITY, ConfigError
from normbench.words import duration

BUDGETS = ("quick", "full", "paper")
PAPER = "paper"
NONE = "no verdict"  # the report was refused
HELP = """\
usage: normbench reproduce NAME ... | all  [budget=quick|full|paper] [key=value ...]
       normbench reproduce --list

Put claims of the documents to the test. Each trains its runs into results/NAME (results/NAME_quick; with other settings
than the claim's own a folder beside it), skipping those that are done, and writes a report that begins with the claim
and its verdict: supported, contradicted, in part (some questions so, some so) or undecided.

  normbench reproduce --list                     the claims, what they cost
  normbench reproduce bn_speeds_training         with budget=quick: minutes on 2 cores
  normbench reproduce all budget=full            hours; the same command again goes on where it was ended
  normbench reproduce bn_cost device=cuda        further words are settings, as of normbench train
  normbench reproduce covariate_shift budget=paper    a paper's own setting, where one is known: PASS, FAIL or NOT
                                                 COMPARABLE with what it has published; mind what --list says it costs

Exit codes: 0 every claim has its verdict, whatever it is; 1 a run failed, or a claim got no verdict (the others go on);
2 bad input; 130/143 interrupted.
"""


def main(args: Sequence[str]) -> int:
    if not args or any(arg in ("-h", "--help") for arg in args):
        print(HELP, end="")
        return 0
    try:
        if "--list" in args:
            return _list()
        budget, names, typed = _read(args)
        return _reproduce(names, budget, typed)
    except ConfigError as error:
        print(f"normbench reproduce: {error}", file=sys.stderr)
        return 2


def known() -> dict[str, Mapping[str, Any]]:
    """Every claim by name, as its file has it."""
    from omegaconf import OmegaConf

    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted((files("normbench.conf") / "claim").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            data: Any = OmegaConf.to_container(OmegaConf.create(file.read_text()), resolve=False)
            found[file.name.removesuffix(".yaml")] = data
    return found


def sweeps(name: str, data: Mapping[str, Any], budget: str) -> list[list[str]]:
    """What is typed behind `normbench train -m` for one claim, one list a sweep; all runs go to one folder."""
    if budget not in budgets(data):
        raise ConfigError(f"{name} has no budget={budget}; it has {' and '.join(budgets(data))}")
    own = (data.get(PAPER) or {}).get("sets") if budget == PAPER else data.get(budget)
    shared = [f"+experiment={name}", f"name={folder_name(name, budget)}", *map(str, own or ())]
    more = data.get("sweeps") or {}
    return [_last_wins([*shared, *map(str, words)]) for words in more.get(budget) or [[]]]


def budgets(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that a claim has: the experiment as it is (full) and less of it (quick), a paper's own setting."""
    return tuple(budget for budget in BUDGETS if (data.get(PAPER) if budget == PAPER else data.get("quick")))


def drawn(data: Mapping[str, Any], budget: str) -> list[draws.Drawn]:
    """The settings that are drawn at random for the runs of a claim; most have none."""
    sets = dict(data.get("draws") or {})
    if not sets:
        return []
    trials, seeds = sets.pop("trials")[budget], range(sets.pop("seeds")[budget])
    return [draw for name, ranges in sets.items() for draw in draws.drawn(name, ranges, seeds, trials)]


def _last_wins(words: Sequence[str]) -> list[str]:
    """Of several values for a key the last, in the place of the first: what a sweep adds wins over its budget."""
    return list({word.partition("=")[0]: word for word in words}.values())


def folder_name(name: str, budget: str) -> str:
    return name if budget == "full" else f"{name}_{budget}"


def _read(args: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """(budget, names of claims, settings)."""
    there, budget, names, typed = known(), "quick", [], []
    for arg in args:
        key, equals, value = arg.partition("=")
        if key == "budget" and equals:
            budget = value
        elif equals or arg.startswith("-"):
            typed.append(arg)
        elif arg == "all" or arg in there:
            names += ["all"] if arg == "all" else [arg]
        else:
            near = get_close_matches(arg, there, 1)
            hint = f"did you mean {near[0]}?" if near else "normbench reproduce --list tells them"
            raise ConfigError(f"no claim {arg!r}; {hint}")
    if budget not in BUDGETS:
        raise ConfigError(f"budget must be one of {', '.join(BUDGETS)}, got {budget!r}")
    if not names:
        raise ConfigError("name a claim, or all; normbench reproduce --list tells them")
    if bad := [word for word in typed if word.startswith("-")]:
        raise ConfigError(f"unknown option {bad[0]}; normbench reproduce --help tells more")
    every = [name for name, data in there.items() if budget in budgets(data)]
    names = list(dict.fromkeys(known for name in names for known in (every if name == "all" else [name])))
    keys = [word.partition("=")[0] for word in typed]
    for name in names:
        for key in keys:
            if key in ("name", "seed") or key in asked_about(there[name]):
                raise ConfigError(
                    f"{key} is a part of what {name} tests; type another setting, or make your own runs with "
                    "normbench train -m"
                )
    return budget, names, typed


def asked_about(data: Mapping[str, Any]) -> set[str]:
    """The settings that the claim's questions compare."""
    texts = [
        text for ask in data.get("asks") or () for text in (ask["of"], ask["than"], *str(ask.get("along", "")).split())
    ]
    return {word.partition("=")[0] for text in texts for word in str(text).split()}


def _list() -> int:
    there = known()
    width = max(map(len, there))
    for name, data in there.items():
        cost = data.get("cost") or {}
        times = [f"{budget} {duration(cost[budget])}" for budget in budgets(data) if budget in cost]
        if data.get(PAPER):
            times.append(f"paper {data[PAPER]['cost']}, {_of_paper(Path('results') / folder_name(name, PAPER))}")
        print(f"{name:<{width}}  {' '.join(str(data['claim']).split())} ({data['source']}; {', '.join(times)})")
    return 0


def _of_paper(folder: Path) -> str:
    """What came of it in this folder."""
    try:
        return str(json.loads((folder / "report" / "report.json").read_text())["claim"]["paper"]["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return "not run"


def _reproduce(names: Sequence[str], budget: str, typed: Sequence[str]) -> int:
    there, told, worst = known(), [], 0
    commands = {name: sweeps(name, there[name], budget) for name in names}
    made = {name: (claim.made(name, there[name], budget), commands[name]) for name in names}
    for number, (name, (tested, commands)) in enumerate(made.items(), 1):
        if len(names) > 1:
            print(f"\n[{number}/{len(names)}] {name}")
        started = time.monotonic()
        code, verdict = _one(tested, commands, there[name], typed)
        if code > 1:
            return code
        worst = max(worst, code)
        told.append((name, verdict, duration(time.monotonic() - started)))
    if len(told) > 1:
        width = max(len(name) for name, *_ in told)
        print("\n" + "\n".join(f"{name:<{width}}  {verdict:<12}  {spent}" for name, verdict, spent in told))
    return worst


def _one(
    tested: claim.Claim, commands: Sequence[Sequence[str]], data: Mapping[str, Any], typed: Sequence[str]
) -> tuple[int, str]:
    """(exit code, verdict). Above 1 the code is one that ends all: nothing else would go better."""
    from normbench import app, report

    print(tested.claim)
    if tested.paper:
        print(f"published: {tested.paper.says}\nexpected cost: {tested.paper.cost}")
    worst = 0
    own, folder = {word.partition("=")[0] for word in typed}, _folder(tested, typed)
    beside: list[str] = []
    if settings := drawn(data, tested.budget):
        place = folder.with_name(f"{folder.name}_draws")
        draws.write(place, settings)
        beside = ["--config-dir", str(place)]
    for command in commands:
        command = [word for word in command if word.partition("=")[0] not in own]  # what is typed wins
        command = [f"name={folder.name}" if word.startswith("name=") else word for word in command]
        words = ["-m", *beside, *command, *typed]
        print(f"$ {shlex.join(['normbench', 'train', *words])}", flush=True)
        code = app.train(words)
        if code in (130, 143):
            again = ["normbench", "reproduce", tested.name, f"budget={tested.budget}", *typed]
            print(f"to go on with the claim: {shlex.join(again)}", flush=True)
        if code not in (0, 1):
            return code, NONE
        worst = max(worst, code)
    claim.write(folder, tested)
    if report.main([str(folder), *map(str, data.get("report") or ())]):
        print(f"{NONE}: {tested.claim}", flush=True)
        return 1, NONE
    verdict = _verdict(folder)
    print(f"{verdict}: {tested.claim}", flush=True)
    return worst, verdict


def _folder(tested: claim.Claim, typed: Sequence[str]) -> Path:
    """Runs with other settings than the claim's have a folder of their own: they are never judged together."""
    out = next((word.partition("=")[2] for word in reversed(typed) if word.startswith("out=")), "results")
    other = sorted(word for word in typed if not word.startswith("hydra") and not _unimportant(word.partition("=")[0]))
    mark = f"_{hashlib.sha256(' '.join(other).encode()).hexdigest()[:6]}" if other else ""
    return Path(out) / f"{folder_name(tested.name, tested.budget)}{mark}"


def _unimportant(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)


def _verdict(folder: Path) -> str:
    found = json.loads((folder / "report" / "report.json").read_text())["claim"]
    return str(found["verdict"])
