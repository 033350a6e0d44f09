"""torch's compiler is not loaded by a run, and is there for whoever asks for it."""

import subprocess
import sys

import pytest

RUN = """
import sys
from normbench import cli
code = cli.main(["train", "dataset=synthetic", "epochs=1", "progress=false"])
assert code == 0
assert "torch._dynamo.eval_frame" not in sys.modules and "sympy" not in sys.modules, "the compiler was loaded"
"""
USES = {
    "compile": """
import torch
net = torch.nn.Linear(3, 2)
x = torch.ones(4, 3)
assert torch.equal(torch.compile(net, backend="eager")(x), net(x))
assert torch._dynamo.eval_frame is sys.modules["torch._dynamo.eval_frame"]
""",
    "submodule": """
import torch, torch._dynamo.config as config, torch._dynamo.utils
assert config is sys.modules["torch._dynamo"].config is torch._dynamo.config
assert config.__spec__.name == "torch._dynamo.config" and config.__spec__.loader is not None
assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
""",
    "from": """
from torch._dynamo import optimize
from torch._dynamo.utils import counters
import torch
assert torch._dynamo.optimize is optimize and torch._dynamo.utils.counters is counters
""",
    "look through": """
import inspect
inspect.getmodule(len), [hasattr(module, "__file__") for module in list(sys.modules.values())]
assert "sympy" not in sys.modules
""",
}
AFTER = """
import torch
p = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([p], lr=0.1)
p.sum().backward()
optimizer.step()
assert torch.allclose(p, torch.full((3,), 0.9))
"""


@pytest.mark.parametrize("use", USES)
def test_a_run_does_without_the_compiler_and_leaves_it_to_others(tmp_path, use):
    done = subprocess.run([sys.executable, "-c", RUN + USES[use] + AFTER], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_who_has_loaded_the_compiler_keeps_it(tmp_path):
    code = """
import torch._dynamo as before
from normbench import _dynamo
_dynamo.leave_out()
import torch._dynamo as after
assert before is after and before.optimize
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
