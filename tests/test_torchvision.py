"""The import of torchvision beside a torch that lacks its operators, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NMS = 'raise RuntimeError("operator torchvision::nms does not exist")'


def run(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    setup = f"import sys; sys.path[:0] = {[str(path) for path in (*paths, ROOT)]!r}\n"
    return subprocess.run([sys.executable, "-W", "error", "-c", setup + code], capture_output=True, text=True)


def fake(folder: Path, fakes: str, datasets: str = "") -> Path:
    """A package that is laid out like torchvision: its __init__ imports the descriptions, then the rest."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import extension\nfrom torchvision import _meta_registrations, datasets\n"
    )
    (package / "extension.py").write_text("print('imported')\n")
    (package / "_meta_registrations.py").write_text(fakes + "\nREAL = True\n")
    (package / "datasets.py").write_text(datasets + "\nFashionMNIST = object\n")
    return folder


IMPORT = """
from normbench._torchvision import torchvision
package = torchvision()
assert package is torchvision() is sys.modules["torchvision"] and package.datasets.FashionMNIST
print(hasattr(sys.modules["torchvision._meta_registrations"], "REAL"))
"""


def test_without_the_error_the_package_is_imported_once_as_it_is(tmp_path):
    done = run(IMPORT, fake(tmp_path, ""))
    assert (done.returncode, done.stdout.split()) == (0, ["imported", "True"]), done.stderr


def test_after_that_error_the_package_is_imported_anew_with_an_empty_module(tmp_path):
    done = run(IMPORT, fake(tmp_path, NMS))
    assert (done.returncode, done.stdout.split()) == (0, ["imported", "imported", "False"]), done.stderr


@pytest.mark.parametrize(
    ("fakes", "error"),
    [
        ('raise RuntimeError("operator torchvision::roi does not exist")', "torchvision::roi"),
        ('raise ImportError("no libc10")', "no libc10"),
    ],
)
def test_another_error_passes(tmp_path, fakes, error):
    done = run(IMPORT, fake(tmp_path, fakes))
    assert done.returncode == 1
    assert error in done.stderr.splitlines()[-1]
    assert done.stdout.split() == ["imported"]


def test_an_error_of_the_second_import_passes_and_leaves_nothing_behind(tmp_path):
    code = """
from normbench._torchvision import torchvision
try:
    torchvision()
except ValueError as error:
    print(error, [name for name in sys.modules if name.startswith("torchvision")])
"""
    done = run(code, fake(tmp_path, NMS, 'raise ValueError("second")'))
    assert done.stdout.split() == ["imported", "imported", "second", "[]"], done.stderr


def test_the_installed_torchvision_works():
    code = """
from normbench._torchvision import torchvision
torchvision = torchvision()
from torchvision import transforms
print(torchvision.datasets.FashionMNIST.__name__, torchvision.models.resnet18.__name__)
"""
    done = run(code)
    assert done.stdout.split() == ["FashionMNIST", "resnet18"], done.stderr
