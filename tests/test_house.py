"""The rules of the house: YAML is the only registry, imports point down, nothing heavy is imported early."""

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from normbench.parts import OURS

ROOT = Path(__file__).resolve().parent.parent
NOT_PARTS = {"experiment", "claim", "hydra", "__pycache__"}  # folders of conf/ that hold no classes
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name not in NOT_PARTS)
YAMLS = [path for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
MODULES = sorted((ROOT / "normbench").rglob("*.py"))
RUNTIME = {  # what only build.py knows
    "model": {"norm", "input_shape", "num_classes"},
    "optimizer": {"params", "matrices"},
    "clip": {"head"},
    "schedule": {"steps_per_epoch"},
}
MISSING = "???"

# ------------------------------------------------------------------------------------------------------- YAML and class


def relative(path):
    return str(path.relative_to(ROOT))


def read(path):
    return OmegaConf.to_container(OmegaConf.load(path))


def target_of(path):
    module, _, name = read(path)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def ours_in(path):
    """Keys of a choice that are no arguments of its class, unless it asks for them."""
    return set(OURS.get(path.parent.name, ())) - parameters(target_of(path)).keys()


def each_yaml(package=""):
    """Once for every choice whose class is of this package."""
    paths = [path for path in YAMLS if str(read(path).get("_target_")).startswith(package)]
    return pytest.mark.parametrize("path", paths, ids=relative)


def parameters(cls):
    """Names and defaults of a class's arguments, as YAML would write them; MISSING where there is no default."""
    found = {}
    for p in inspect.signature(cls).parameters.values():
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            found[p.name] = MISSING if p.default is p.empty else p.default
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def same(a, b):
    """Equal, and of one type: 0 is not false and not 0.0."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_there_is_something_to_check():
    assert {"norm", "model", "clip", "optimizer", "schedule", "preprocess", "loss", "dataset"} <= set(GROUPS)
    assert len(YAMLS) >= 15
    assert len(MODULES) >= 40


@each_yaml()
def test_a_choice_is_a_short_file_with_a_comment_and_its_own_name(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 15
    assert lines[0].startswith("# ")
    assert len(lines[0]) > 10
    assert not lines[1].startswith("#"), "the comment must be one line: `normbench list` shows the first"
    if read(path)["_target_"] == MISSING:  # the user's own
        assert read(path)["name"] == path.stem
        return
    assert callable(target_of(path))
    # a class that asks for its name says what it is by default: torchvision's network
    assert read(path)["name"] in (parameters(target_of(path)).get("name", path.stem), MISSING)


def test_only_the_users_own_network_lacks_a_class():
    assert [relative(path) for path in YAMLS if read(path)["_target_"] == MISSING] == ["conf/model/own.yaml"]


def test_only_the_users_own_data_set_lacks_a_name():
    assert [path.stem for path in YAMLS if read(path)["name"] == MISSING] == ["imagefolder"]
    assert read(ROOT / "conf/dataset/imagefolder.yaml")["root"] == MISSING


@each_yaml("normbench.")
def test_our_class_lives_where_its_name_says_alone(path):
    target = read(path)["_target_"]
    group, stem = path.parent.name, path.stem
    module, _, name = target.rpartition(".")
    assert module == f"normbench.{group}.{stem}"
    assert getattr(importlib.import_module(module), "__all__", None) == [name]


@each_yaml("normbench.")
def test_our_class_and_its_yaml_have_the_same_keys_and_defaults(path):
    given = {key: value for key, value in read(path).items() if key not in ("name", "_target_", *ours_in(path))}
    runtime = set(RUNTIME.get(path.parent.name, ()))
    runtime |= {"name"}  # given to a class that asks for it
    known = {name: value for name, value in parameters(target_of(path)).items() if name not in runtime}
    assert sorted(given) == sorted(known)
    for key in known:
        assert same(given[key], known[key]), f"{key}: {given[key]!r} in the YAML, {known[key]!r} in the class"


@each_yaml("torch.")
def test_a_torch_class_keeps_its_defaults(path):
    """The lr may differ, and what tells two choices of one class apart (momentum from sgd)."""
    settings = read(path)
    siblings = [read(p) for p in path.parent.glob("*.yaml") if read(p)["_target_"] == settings["_target_"]]
    known = parameters(target_of(path))
    for key in settings.keys() - {"name", "_target_", *ours_in(path)}:
        assert key in known, f"{settings['_target_']} has no {key}"
        telling = any(other.get(key, known[key]) == known[key] for other in siblings)
        if key != "lr" and known[key] != MISSING and not telling:
            assert settings[key] == known[key]


@pytest.mark.parametrize("group", GROUPS)
def test_every_part_has_a_yaml(group):
    files = {path.stem for path in (ROOT / "normbench" / group).glob("*.py") if not path.stem.startswith("_")}
    assert files <= {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


# -------------------------------------------------------------------------------------------------------------- imports


def imported(path):
    """The modules that a file imports; for `from a import b` both a and a.b, since b may be a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: write imports from normbench in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def packages(modules):
    return {module.partition(".")[0] for module in modules}


def ours(modules):
    return {module for module in modules if packages([module]) == {"normbench"} and is_module(module)}


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


PARTS = [path for path in MODULES if path.parent.name in GROUPS and path.parent.parent.name == "normbench"]


@pytest.mark.parametrize("path", PARTS, ids=relative)
def test_a_part_knows_nothing_but_its_contract(path):
    group = path.parent.name
    allowed = {"normbench"}
    if path.stem != "__init__":  # its contract, or a sibling that it builds on
        allowed |= {f"normbench.{group}"} | {f"normbench.{group}.{p.stem}" for p in path.parent.glob("*.py")}
    if group == "dataset":
        allowed |= {"normbench.records"}
    if group == "model":
        allowed |= {"normbench.norm"}  # a contract, too
    if group in ("dataset", "model"):
        allowed |= {"normbench._torchvision", "normbench._torchvision.torchvision"}
    modules = imported(path)
    assert ours(modules) <= allowed
    if "normbench" in ours(modules):  # as in `from normbench import records`, never `import normbench`
        assert ours(modules) - {"normbench"}
    assert not packages(modules) & {"hydra", "omegaconf"}


def test_the_loop_imports_torch_the_standard_library_and_two_contracts():
    modules = imported(ROOT / "normbench/train.py")
    assert packages(modules) <= {"torch", "normbench", *sys.stdlib_module_names}
    assert ours(modules) == {"normbench.clip", "normbench.schedule"}


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.parent.name in ("report", "dataset") or p.name in ("records.py", "status.py", "cli.py")],
    ids=relative,
)
def test_records_report_and_data_sets_never_import_torch(path):
    assert not packages(imported(path)) & {"torch", "torchvision"}


def test_only_the_shell_and_the_wiring_import_hydra():
    users = {relative(path) for path in MODULES if packages(imported(path)) & {"hydra", "hydra_plugins"}}
    allowed = {f"normbench/{name}.py" for name in ("parts", "app", "data", "typed")}
    assert {user for user in users if not user.startswith("normbench/sweep/")} == allowed


def test_a_comparison_is_known_to_the_command_line_alone_and_knows_no_torch():
    """It composes configs, calls the sweep's pool and the report, nothing deeper; nothing below knows of it."""
    inside = [path for path in MODULES if path.parent.name == "compare"]
    assert len(inside) > 5
    below = [path for path in MODULES if path not in inside]
    assert [relative(p) for p in below if "normbench.compare" in imported(p)] == ["normbench/cli.py"]
    found = {module for path in inside for module in imported(path)}
    assert not packages(found) & {"torch", "torchvision", "hydra", "omegaconf"}
    deeper = {"normbench.train", "normbench.assembly", "normbench.parts", "normbench.checkpoint", "normbench.resident"}
    assert not ours(found) & deeper


def test_torchvision_is_imported_in_one_place():
    assert [relative(p) for p in MODULES if "torchvision" in packages(imported(p))] == ["normbench/_torchvision.py"]


def loaded_after(code, tmp_path):
    """The packages that a fresh Python has imported after running `code`."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    return set(process.stderr.split()), process.stdout


def test_help_imports_nothing_heavy(tmp_path):
    packages, text = loaded_after("from normbench.cli import main\nassert main(['--help']) == 0", tmp_path)
    assert "usage: normbench" in text
    assert "normbench" in packages
    assert not packages & {"torch", "numpy", "pandas", "matplotlib", "hydra", "omegaconf"}


def test_showing_the_config_imports_neither_torch_nor_pandas(tmp_path):
    packages, text = loaded_after(
        "from normbench.cli import main\nassert main(['train', '--cfg', 'job']) == 0", tmp_path
    )
    assert "batch_size: 64" in text
    assert "hydra" in packages
    assert not packages & {"torch", "torchvision", "pandas", "matplotlib", "scipy"}
    assert not list(tmp_path.iterdir())


def test_records_report_and_data_sets_load_without_torch(tmp_path):
    """Also not through something that they import."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in MODULES
        if path.parent.name in ("report", "dataset") or path.name == "records.py"
    ]
    packages, _ = loaded_after(f"import importlib\nfor n in {names!r}: importlib.import_module(n)", tmp_path)
    assert "pandas" in packages
    assert not packages & {"torch", "torchvision"}


# ------------------------------------------------------------------------------------------------------------ packaging


def test_pyproject_lists_the_packages_on_disk():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapped = {"normbench.conf": "conf", "hydra_plugins.normbench_checked": "normbench/sweep/plugin"}
    assert setuptools["package-dir"] == mapped
    on_disk = {relative(path.parent) for path in MODULES if path.name == "__init__.py"}
    expected = {folder.replace("/", ".") for folder in on_disk - set(mapped.values())} | set(mapped)
    assert sorted(setuptools["packages"]) == sorted(expected)
    assert all((ROOT / folder / "__init__.py").exists() for folder in mapped.values())
    assert [relative(p) for p in MODULES if p.parent.is_dir() and not (p.parent / "__init__.py").exists()] == []


def test_every_choice_ships():
    """The pattern that ships conf/ takes every YAML file there is."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in data["normbench.conf"] for path in (ROOT / "conf").glob(pattern)}
    assert {*(ROOT / "conf").rglob("*.yaml")} <= shipped
    for pattern in data["normbench.dataset"]:
        assert list((ROOT / "normbench/dataset").glob(pattern)), f"{pattern}: no such file"
