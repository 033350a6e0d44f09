"""A claim that runs put to the test, `claim.json` beside them: written by reproduce, read by report.

conf/claim/<name>.yaml holds the same keys and how to make the runs. Never imports torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from normbench import records

FILE = "claim.json"
VERSION = 1
EXPECTED = ("higher", "lower", "same")
TARGETS = (0.7, 0.8, 0.85)  # validation accuracies of every claim about time, fixed for all before any was run
TIMES = ("step", "examples", "train_s")  # measures that are times to a target


@dataclass(frozen=True)
class Question:
    """Is `measure` of the runs with setting `of` higher, lower or the same as with `than`?

    measure: a name of normbench.report.answers.MEASURES. of, than: as one types them, `norm=bn`. where: settings that
    narrow the runs, `optimizer=adam`; what else varies gives an answer each. along: the key that a measure of a whole
    range runs over. margin: the smallest difference that matters, where the measure's own does not fit.
    """

    measure: str
    of: str
    than: str
    expect: str
    where: tuple[str, ...] = ()
    along: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class Paper:
    """What a paper has published, and when runs are comparable with it.

    says: its number or figure, in words, and where. setting: what all runs must have, as typed. value: the mean test
    accuracy of the runs with `of`, to be met within `tolerance`; None: the paper has an order, which the questions ask
    about. cost: what the runs take, on which device; an estimate.
    """

    says: str
    cost: str
    setting: tuple[str, ...]
    of: str = ""
    value: float | None = None
    tolerance: float = 0.005


@dataclass(frozen=True)
class Claim:
    """claim: one sentence. source: where it stands. words: the document's own, and what they mean. number: its own
    number, "" where it gives none. remark: what a reader should make of it beside the verdict. budget: quick, full or
    paper. figure: the key of the one that answers it. targets: the accuracies that times are told to; (): the report's.
    paper: with budget=paper.
    """

    name: str
    claim: str
    source: str
    budget: str
    asks: tuple[Question, ...]
    words: str = ""
    number: str = ""
    remark: str = ""
    figure: str = ""
    targets: tuple[float, ...] = ()
    paper: Paper | None = None


def made(name: str, data: Mapping[str, Any], budget: str) -> Claim:
    """From the keys of a YAML or JSON file.

    Raises:
        ValueError: it is no claim; the message names the key.
    """
    paper = _paper(name, data.get("paper")) if budget == "paper" else None
    data = {**data, "asks": (data.get("paper") or {}).get("asks") or data.get("asks")} if paper else data
    for key in ("claim", "source", "asks"):
        if not data.get(key) and not (key == "asks" and paper and paper.value):
            raise ValueError(f"claim {name}: needs a key {key}")
    asks = tuple(_question(name, ask) for ask in data.get("asks") or ())
    keys = ("claim", "source", "words", "number", "remark", "figure")
    texts = {key: " ".join(str(data.get(key) or "").split()) for key in keys}
    timed = TARGETS if any(ask.measure in TIMES for ask in asks) else ()
    targets = tuple(map(float, data.get("targets", timed)))
    return Claim(name=name, budget=budget, asks=asks, targets=targets, paper=paper, **texts)


def _paper(name: str, data: Mapping[str, Any] | None) -> Paper:
    """From conf/claim, where `sets` says how to make the runs and `asks` what is asked instead, or from claim.json."""
    if not data:
        raise ValueError(f"claim {name}: needs a key paper")
    known = {field.name for field in fields(Paper)}
    if missing := [key for key in ("says", "cost", "setting") if not data.get(key)]:
        raise ValueError(f"claim {name}: paper needs {missing[0]}")
    if unknown := sorted(set(data) - known - {"sets", "asks"}):
        raise ValueError(
            f"claim {name}: paper has no key {unknown[0]}; it has {', '.join(sorted(known))}, asks and sets"
        )
    found = {key: value for key, value in data.items() if key in known}
    texts = {key: " ".join(str(found[key]).split()) for key in ("says", "cost")}
    return Paper(**{**found, **texts, "setting": tuple(map(str, found["setting"]))})


def _question(name: str, ask: Mapping[str, Any]) -> Question:
    names = {field.name for field in fields(Question)}
    if unknown := sorted(set(ask) - names):
        raise ValueError(f"claim {name}: asks has no key {unknown[0]}; it has {', '.join(sorted(names))}")
    if missing := [key for key in ("measure", "of", "than", "expect") if not ask.get(key)]:
        raise ValueError(f"claim {name}: a question needs {missing[0]}")
    if ask["expect"] not in EXPECTED:
        raise ValueError(f"claim {name}: expect must be one of {', '.join(EXPECTED)}, given {ask['expect']!r}")
    for key in ("of", "than"):
        if not all(part.partition("=")[2] for part in str(ask[key]).split()):
            raise ValueError(f"claim {name}: {key} must be key=value, given {ask[key]!r}")
    where = ask.get("where") or ()
    return Question(**{**ask, "where": (where,) if isinstance(where, str) else tuple(where)})


def write(folder: Path, claim: Claim) -> None:
    data = {"format_version": VERSION} | asdict(claim)
    records.write(folder / FILE, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def read(folder: Path) -> Claim | None:
    """The claim in this folder; None where there is none.

    Raises:
        records.Damaged: the file is there and is no claim.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text())
        if data["format_version"] != VERSION:
            raise records.Damaged(f"{path} has format_version {data['format_version']}, this normbench reads {VERSION}")
        return made(data["name"], data, data["budget"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, records.Damaged):
            raise
        raise records.Damaged(f"{path} is damaged: {error}") from None
