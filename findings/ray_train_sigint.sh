#!/usr/bin/env bash
# Ray Train 2.60.0: after `fit` has returned, Ctrl-C does nothing twice, and then ends the script with exit code 0.
#
# source:     ray/train/v2/api/data_parallel_trainer.py, `_register_sigint_handler`: the handler that `fit` installs in
#             the main thread is not taken back when it returns.  It goes on asking the controller to abort the run that is
#             over, and calls sys.exit(0) at the third signal.
# behaviour:  what follows `fit` in a script (an evaluation, an upload) gets no KeyboardInterrupt: `except
#             KeyboardInterrupt` does not run, and the exit code says that all went well.
# seen:       before fit: KeyboardInterrupt, after fit: nothing, nothing, SystemExit 0     (2026-11-29, Linux, Python 3.11)
# pairmill:   runs `fit` in another thread, where Ray installs no handler (training/driver.py, pairmill/stopping.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet "ray[train]==2.60.0"
cd "$folder"
seen=$(RAY_TRAIN_V2_ENABLED=1 "$folder/env/bin/python" -W ignore - "$folder" 2>/dev/null <<'PYTHON' | grep "^seen: "
import os, signal, sys, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

def interrupted():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3)
    except (KeyboardInterrupt, SystemExit) as error:
        return " ".join([type(error).__name__, *map(str, error.args)])
    return "nothing"

before = interrupted()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
scaling, config = ScalingConfig(num_workers=1), RunConfig(storage_path=sys.argv[1])
DataParallelTrainer(lambda: None, scaling_config=scaling, run_config=config).fit()
print(f"seen: before fit: {before}, after fit: {', '.join(interrupted() for _ in range(3))}")
PYTHON
)
echo "$seen"
[ "$seen" = "seen: before fit: KeyboardInterrupt, after fit: nothing, nothing, SystemExit 0" ] || { echo "changed"; exit 1; }
echo "as described"
