#!/usr/bin/env bash
# A job on the machine that this is called on; job.sh and project/ are beside it:
#   host.sh start GRACE   begins it, unless it runs (GRACE: seconds to save in)
#   host.sh follow        prints its log until it ends
#   host.sh state         says "running", "exited CODE" or "gone"
#   host.sh stop          SIGTERM; it is killed once the grace period has passed
set -euo pipefail
cd "$(dirname "$0")"

# Held while the job runs; unlike a pid it does not outlive a reboot.
runs() { [ -e running ] && ! flock -n running true; }

case $1 in
  start)
    if runs; then exit 0; fi
    rm -f code pid
    echo "$2" > grace
    setsid nohup bash host.sh run >> log 2>&1 < /dev/null &
    until [ -e pid ] || [ -e code ]; do sleep 0.1; done
    ;;
  run)
    exec 9> running
    flock -w 10 9 # `runs` may hold it for a moment
    cd project
    bash ../job.sh 9>&- & # which becomes the program: SIGTERM reaches it
    program=$!
    echo "$program" > ../pid.new
    mv ../pid.new ../pid
    code=0
    wait "$program" || code=$?
    cd ..
    echo "$code" > code.new
    mv code.new code
    ;;
  follow)
    tail -n +1 -F log 2> /dev/null &
    tail=$!
    trap 'kill "$tail"' EXIT
    while runs; do sleep 1; done
    sleep 1 # for the log's last lines
    ;;
  state)
    if runs; then
      echo running
    elif [ -e code ]; then # it was written before the job let go of its lock
      echo "exited $(cat code)"
    else
      echo gone
    fi
    ;;
  stop)
    if ! runs; then exit 0; fi
    kill -TERM "$(cat pid)"
    for ((second = 0; second < $(cat grace); second++)); do
      if ! runs; then exit 0; fi
      sleep 1
    done
    kill -KILL "$(cat pid)"
    ;;
  *)
    sed -n '2,6s/^# //p' "$0" >&2
    exit 2
    ;;
esac
