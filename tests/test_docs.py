"""The pages tell of every choice, and their defaults are the YAML's."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from normbench import catalog
from normbench.config import GROUPS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "norm": "norms", "optimizer": "optimizers", "clip": "clipping", "schedule": "schedules", "loss": "schedules",
    "dataset": "data", "preprocess": "data", "augment": "data",
}  # fmt: skip


def rows(text):
    """The cells of every table row, without markup."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[re.sub(r"[`*]", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("group", PAGES)
def test_each_choice_has_a_row_on_its_page(group):
    text = (ROOT / f"docs/{PAGES[group]}.md").read_text()
    first = {row[0].removeprefix(f"{group}=") for row in rows(text)}
    headings = set(re.findall(r"^#+ `?(\w+)`?", text, re.M))
    assert set(catalog.choices(group)) <= first | headings


@pytest.mark.parametrize("group", GROUPS)
def test_the_readmes_table_has_every_choice_and_marks_the_default(group):
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{group}`")]
    listed = [choice.strip() for choice in line.split("|")[2].split(",")]
    assert {choice.strip("*") for choice in listed} == set(catalog.choices(group))
    assert [choice.strip("*") for choice in listed if "*" in choice] == [catalog.default(group)]


def settings(group, name):
    return OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/{group}/{name}.yaml"))


def test_the_optimizers_learning_rates_are_the_yamls():
    found = {row[0]: float(row[2]) for row in rows((ROOT / "docs/optimizers.md").read_text())[2:]}
    assert found == {name: settings("optimizer", name)["lr"] for name in catalog.choices("optimizer")}


def test_the_clipping_rules_bounds_are_the_yamls():
    text = (ROOT / "docs/clipping.md").read_text()
    for row in rows(text):
        if row[0] in catalog.choices("clip") and row[0] != "none":
            key, value = row[4].removeprefix("clip.").split("=")
            assert settings("clip", row[0])[key] == float(value)


@pytest.mark.parametrize("group", ["preprocess", "augment"])
def test_defaults_on_the_page_of_data_are_the_yamls(group):
    known = {}
    for name in catalog.choices(group):
        known |= settings(group, name)
    text = (ROOT / "docs/data.md").read_text()
    section = text.partition(f"## {'Preprocessing' if group == 'preprocess' else 'Augmentation'}")[2].partition(
        "\n## "
    )[0]
    told = re.findall(r"`(\w+)=([\d.]+|true|false)`", section)
    assert told or group == "preprocess"
    for key, value in told:
        assert OmegaConf.to_container(OmegaConf.create(f"v: {value}"))["v"] == known[key], key
