#!/usr/bin/env bash
# ray 2.60.0: the command of a submitted job finds a `python` that is not Ray's own.
#
# source:     JobSupervisor (ray/dashboard/modules/job/job_supervisor.py) runs the entrypoint in a shell with the
#             environment that `ray start` had.  It does not put the folder of its own interpreter on the PATH.
# behaviour:  if `ray start --head` was called by its path and the environment was not activated, a job
#             `python -c "import ray"` runs on the system's Python and fails, although Ray runs on the environment's.
# seen:       ModuleNotFoundError: No module named 'ray'      (2026-11-28, Linux, Python 3.11)
# pairmill:   asks the dashboard which Python the head's workers run on, and submits with that.
set -euo pipefail
folder=$(mktemp -d)
export HOME=$folder RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
unset VIRTUAL_ENV RAY_ADDRESS
finish() {
  [ -z "${head:-}" ] || { kill "$head" 2>/dev/null && wait "$head" || true; }
  rm -rf "$folder"
}
trap finish EXIT

"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet 'ray[default]==2.60.0'
"$folder/env/bin/ray" get-auth-token --generate >/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"$folder/env/bin/ray" start --head --block --num-cpus=1 --port=27379 --dashboard-port=28265 \
  --dashboard-agent-listen-port=28266 --metrics-export-port=28267 --temp-dir="$folder/ray" >"$folder/head.log" 2>&1 &
head=$!

submit() {  # the job's status and log
  "$folder/env/bin/python" - "$1" <<'PYTHON'
import sys, time
from ray.job_submission import JobSubmissionClient
for _ in range(60):  # until the head and its agent are up
    try:
        client = JobSubmissionClient("http://127.0.0.1:28265")
        job = client.submit_job(entrypoint=sys.argv[1])
        break
    except (RuntimeError, OSError):
        time.sleep(1)
while (status := client.get_job_status(job)) not in ("SUCCEEDED", "FAILED", "STOPPED"):
    time.sleep(1)
print(status.value, client.get_job_logs(job))
PYTHON
}

by_name=$(submit 'python3 -c "import ray"')
by_path=$(submit "$folder/env/bin/python -c 'import ray; print(ray.__version__)'")
echo "by name: $by_name"
echo "by path: $by_path"
[[ $by_path == SUCCEEDED* ]] || { echo "changed: Ray's own Python does not run the job"; exit 1; }
[[ $by_name == FAILED*"No module named 'ray'"* ]] || { echo "changed: the job found Ray by name"; exit 1; }
echo "as described"
