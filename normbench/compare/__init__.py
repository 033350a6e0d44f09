"""`normbench compare`: every arm tuned with the same budget, then confirmed on fresh seeds (docs/fair-comparison.md).

The plan goes to `compare.json` before the first run; the same command again goes on where it ended.
"""

import os
import shlex
import time
from collections.abc import Sequence

HELP = """\
usage: normbench compare GROUP=A,B ... [tune.KEY=RANGE ...] [key=value ...]

Compare choices fairly: every arm is tuned with the same number of trials, the best setting by validation accuracy is
trained anew on fresh seeds, and those alone are reported.

  normbench compare norm=none,bn optimizer=sgd,adam trials=16 tune_seeds=2 seeds=6
  normbench compare norm=none,bn model=lenet epochs=3 budget=30min
  normbench compare study=mine.yaml seeds=12          a file with such lines: norm: none,bn

Arms are the product of all lists. Every other key is a setting of normbench train, and holds for every arm.

  tune.optimizer.lr='log(1e-4,1)'        where a setting is searched: log, linear, one_minus_log (for a momentum),
                                         a list of values, or null: not at all (default: conf/optimizer/*.yaml)
  tune.optimizer.sgd.lr='log(1e-2,10)'   the same for optimizer=sgd alone
  trials=16       settings tried for each arm, over all rounds
  zoom=1          further rounds, in a quarter of the ranges round the best so far
  tune_seeds=2    seeds 1000, 1001, ... that choose the setting
  seeds=6         seeds 0, 1, ... that are reported; more can be added later
  first_seed=0    with first_seed=100 the seeds are 100, 101, ... and 1100, 1101, ...: the comparison once more
  search=quasirandom|random|grid         how settings are drawn; search_seed=0: other ones
  halving=3       stop what is behind after a ninth and a third of the epochs, the same rule for every arm
  budget=30min    choose trials, tune_seeds, seeds and epochs, as far as they are not typed, to fit into that time;
                  stop at its end
  study=FILE      read the settings from a YAML file; what is typed goes before
  name=compare    the folder: results/compare; one folder holds one comparison
  --dry-run       the plan, and how long it would take
  --yes           start it, even if it has more than 10,000 runs
  --config-dir FOLDER                    more choices, as for normbench train
  hydra.launcher.workers=2               so many runs at once (default: one a core, or one a GPU)
  hydra.launcher.timeout_s=3600          a run that takes longer is stopped

The same command again goes on where it was ended. Exit codes: 0 done, or stopped at the end of the budget; 1 a run
failed; 2 bad input; 3 it is in use by another process; 4 damaged data; 130/143 interrupted.
"""


def main(args: Sequence[str]) -> int:
    if any(arg in ("-h", "--help") for arg in args):
        print(HELP, end="")
        return 0
    from normbench import app, run

    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        return _compare(args)
    except run.Interrupted as stop:
        print(f"\ninterrupted; to go on: {_command(args)}", flush=True)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; to go on: {_command(args)}", flush=True)
        return 130
    except OSError as error:
        if error.errno and error.filename is None:  # of our own output: cli.main knows what to say
            raise
        return app.explain(error, full_error, otherwise=2)
    except Exception as error:
        return app.explain(error, full_error)


def _command(args: Sequence[str]) -> str:
    return shlex.join(["normbench", "compare", *args])


def _compare(args: Sequence[str]) -> int:
    started = time.monotonic()
    from normbench import app, plan, records, run
    from normbench.compare import arms, asked, budget, ending, planning, telling
    from normbench.compare.launch import Launch
    from normbench.sweep import loading
    from normbench.words import duration

    wanted = asked.read(args)
    app.warnings_to_terminal()
    app.register_plugins()
    with loading.opened(wanted.config_dir) as loader:
        contenders = arms.contenders(loader, wanted.settings, wanted.tune)
    folder = contenders[0].config.folder.parent
    before = planning.kept(folder)
    contenders, lost = planning.possible(contenders)
    count = planning.workers(wanted, contenders)
    contenders, made, measured = planning.made(wanted, contenders, before, _command(args), count, started)
    planning.refuse_other(before, made, folder, args)
    print(telling.told(contenders, made))
    for contender, reason in lost:
        print(f"  impossible: {contender.name}: {reason}")
    if before is not None:
        print(planning.earlier(before, wanted, contenders, made, folder))
    if wanted.dry_run:
        left = planning.left(contenders, made, measured or budget.costs(contenders, count), count, folder)
        print(f"would take about {duration(left)}, {count} runs at once; nothing was started")
        return 0
    planning.refuse_many(wanted, contenders, made)
    if measured is not None:
        whole = time.monotonic() - started + planning.predicted(contenders, made, measured, count)
        print(f"predicted: about {duration(whole)} in all, {count} runs at once", flush=True)
    ends = started + wanted.budget_s if wanted.budget_s is not None else None
    with records.Lock(folder):  # of two at once one would report what the other still writes
        plan.write(folder, made)
        for contender, reason in lost:
            run.record_skipped(contender.config, reason)
        with Launch(count, wanted.timeout_s, ends, telling.runs(contenders, made)) as launch:
            return ending.carried_out(contenders, made, folder, launch, args, may_shorten=wanted.leaves_rounds_open)
