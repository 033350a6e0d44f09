"""The benchmark runs and says what it should; how fast anything is, is no test."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"


def test_the_benchmark_prints_its_tables_and_writes_them_as_markdown(tmp_path):
    options = "--dataset synthetic --models mlp --rounds 1 --seconds 0.02 --starts 1 --markdown tables.md"
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *options.split()], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tables.md"]
    markdown = (tmp_path / "tables.md").read_text()
    for words in ("normbench", "bare loop", "examples loop", "accuracy after one epoch", "--cfg job", "load average"):
        assert words in process.stdout
        assert words in markdown
    assert "| mlp | bare loop | " in markdown
    assert " >= 0.93 " in markdown
