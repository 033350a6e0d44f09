"""A process that has everything imported and starts `normbench ...` by fork: a start takes 10 ms instead of 3 s.

It answers requests, one JSON line each, on stdin and stdout:

    {"start": [ARGUMENTS], "cwd": FOLDER, "output": FILE, "errors": FILE, "steps": FILE}
                                                                           -> pid of a child that waits for its `go`
    {"go": pid}                                                            -> true
    {"wait": pid}                                                          -> its exit code, -9 if it was killed by 9

The child is `normbench ARGUMENTS` to the last line of its output; only that a training step is counted in `steps`, in
shared memory, so that no system call is added. `crash_server.py MUTANT` breaks normbench first (see mutants.py).
"""

import ctypes
import json
import mmap
import os
import sys
import traceback

import torch
import torch._inductor  # torch.use_deterministic_algorithms imports it, in 1 s

import normbench.app
import normbench.evaluate
import normbench.report
import normbench.status
from normbench import assembly, checkpoint, cli, fused, graph, manifest, train  # noqa: F401 - imported before the fork

PR_SET_PTRACER, ANY = 0x59616D61, -1


def child(request: dict, go: int) -> int:
    """What a start of the command does; the exit code."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY))  # so that strace may attach, where Yama forbids it
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, target in (("output", 1), ("errors", 2)):  # both may be one file
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), target)
    count_steps(request["steps"])
    os.read(go, 1)
    return cli.main(request["start"])


def count_steps(path: str) -> None:
    with open(path, "a+b") as file:
        file.truncate(8)
        counter = mmap.mmap(file.fileno(), 8)
    step = fused._Step.__call__  # what training calls; torch's own step it calls only at first

    def counted(self):
        value = int.from_bytes(counter[:], "little") + 1
        counter[:] = value.to_bytes(8, "little")
        return step(self)

    fused._Step.__call__ = counted


def start(request: dict, gos: dict[int, int]) -> int:
    mine, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(mine)
        gos[pid] = theirs
        return pid
    code = 1
    try:
        os.close(theirs)
        for other in gos.values():
            os.close(other)
        code = child(request, mine)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    gos: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = start(request, gos)
        elif "go" in request:
            os.write(gos[request["go"]], b"!")
            os.close(gos.pop(request["go"]))
            answer = True
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    manifest.git_commit()
    normbench.app.register_plugins()
    if len(sys.argv) > 1:
        import mutants

        mutants.apply(sys.argv[1])
    print("ready", flush=True)
    serve()
    os._exit(0)  # torch takes a second to take its leave
