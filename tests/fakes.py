"""Run folders as `normbench train` leaves them, with the numbers that a test wants."""

import json

from normbench import records

N_VAL = 1000


def config(**changes):
    full = {
        "dataset": {"name": "fashion_mini", "_target_": "normbench.dataset.Mini", "root": "data", "train_size": None},
        "preprocess": {"name": "scale", "_target_": "normbench.preprocess.Scale"},
        "model": {"name": "mlp", "_target_": "normbench.model.MLP", "hidden": [64]},
        "norm": {"name": "bn", "_target_": "normbench.norm.BN", "eps": 1e-05},
        "loss": {"name": "cross_entropy", "_target_": "torch.nn.CrossEntropyLoss"},
        "optimizer": {"name": "adam", "_target_": "torch.optim.Adam", "lr": 0.001},
        "clip": {"name": "none", "_target_": "normbench.clip.Nothing"},
        "schedule": {"name": "constant", "_target_": "normbench.schedule.constant"},
        "eval": {"every_steps": None, "batch_size": 512},
        "checkpoint": {"keep": "weights", "every_s": 10},
        **{"seed": 0, "data_seed": 0, "epochs": 5, "batch_size": 64, "out": "results", "name": "runs"},
        **{"device": "auto", "threads": 1, "progress": True, "stop_epoch": None},
    }
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            full[group][name] = value
        elif isinstance(full.get(group), dict):
            full[group] |= {"name": value, "_target_": f"normbench.{group}.{value}"}
        else:
            full[group] = value
    return full


def metrics_rows(steps, accuracies, losses, clip_frac=None):
    rows = []
    for number, (step, acc, loss) in enumerate(zip(steps, accuracies, losses, strict=True)):
        row = dict.fromkeys(records.METRICS)
        row |= {"step": step, "examples": step * 64, "epoch": number * 1.0, "train_s": step * 0.01, "lr": 0.001}
        row |= {"val_loss": loss, "val_acc": acc, "train_eval_loss": loss}
        told = {"train_loss": loss, "train_acc": acc, "grad_norm_mean": 1.0, "clip_size_mean": 1.5}
        rows.append(row if number == 0 else row | told | {"clip_frac": clip_frac})
    return rows


def write_run(root, *, steps=(0, 100, 200), accuracies=(0.1, 0.7, 0.8), losses=(2.3, 0.9, 0.6), state="complete",
              test_acc=None, train_s=2.0, top=None, clip_frac=None, **changes):  # fmt: skip
    """A run folder as `normbench train` leaves it, with the numbers that a test wants."""
    made = config(**changes)
    words = {key: made[key]["name"] for key in ("model", "norm", "optimizer", "clip", "dataset")}
    identity = records.sha256(json.dumps({**made, "out": 0, "name": 0}, sort_keys=True).encode())[:12]
    run_id = f"{words['model']}-{words['norm']}-{words['optimizer']}-s{made['seed']}-{identity}"
    folder = root / run_id
    folder.mkdir(parents=True)
    data = records.metrics_csv(metrics_rows(steps, accuracies, losses, clip_frac))
    done = state == "complete"
    record = {
        "run_id": run_id, "name": made["name"], "state": state, **words, "seed": made["seed"],
        "test_loss": losses[-1] if done else None,
        "test_acc": (accuracies[-1] if test_acc is None else test_acc) if done else None,
        "val_loss": losses[-1], "val_acc": accuracies[-1], "train_s": train_s, "reason": None,
        "diverged_step": steps[-1] + 7 if state == "diverged" else None, "steps": steps[-1], "total_steps": 200,
        "epochs": made["epochs"], "batch_size": made["batch_size"], "n_params": 50890, "n_train": 9000,
        "n_val": N_VAL, "n_test": 2000, "n_classes": 10, "data_fingerprint": "f" * 64, "device": "cpu",
        "environment": {"torch": "2.13.0", "threads": 1}, "git_commit": "abc",
        "versions": {"python": "3.11.2", "normbench": "0.1.0"},
        "started_at": "2025-01-01T00:00:00Z", "finished_at": "2025-01-01T00:00:02Z",
        "format_version": records.FORMAT_VERSION, "results_version": 1,
        "files": {"metrics.csv": records.sha256(data)}, "config": made, **(top or {}),
    }  # fmt: skip
    records.write(folder / "metrics.csv", data)
    records.write(folder / "run.json", records.run_json(record))
    return folder
