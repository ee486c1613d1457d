# shellcheck shell=bash
# Runs a job on a machine that is logged in to. Sourced by a run.sh that has set
# commit, extras, folder (of the job, in the home there), grace and secrets, and
# defined on COMMAND and copy FILE... (into folder).
: "${launch:?}" "${commit:?}" "${extras:?}" "${folder:?}" "${grace:?}" "${secrets?}"

# Brings the project, the job and the secrets there, and installs the project.
send() {
  local scratch variable
  scratch=$(mktemp -d) || return
  git -C "$launch/.." archive --format=tar.gz --output="$scratch/project.tar.gz" "$commit" || return
  # Values travel in a file that only its owner reads, on no command line.
  (
    umask 077
    for variable in $secrets; do
      printf 'export %s=%q\n' "$variable" "${!variable:?is named by --secrets}"
    done > "$scratch/secrets.sh"
  ) || return
  on "umask 077; mkdir -p $folder/project" || return
  copy "$scratch/project.tar.gz" "$scratch/secrets.sh" job.sh \
    "$launch/host.sh" || return
  rm -r "$scratch"
  on "chmod 600 $folder/secrets.sh &&
    tar -xzf $folder/project.tar.gz -C $folder/project &&
    bash $folder/project/launch/install.sh $extras"
}

# Begins the job and prints its log; returns its exit code, or 255 if the machine
# cannot be reached or has forgotten it.
attend() {
  local state
  on "bash $folder/host.sh start $grace" || return 255
  while true; do
    on "bash $folder/host.sh follow" &
    wait "$!" || true
    # Of many hosts the one that says "running", else "gone", speaks for all.
    state=$(on "bash $folder/host.sh state" | sort | tail -n 1) || return 255
    case $state in
      "exited "*) return "${state#exited }" ;;
      running) sleep 5 ;; # the connection was lost
      *) return 255 ;;
    esac
  done
}

# Ctrl-C and SIGTERM: the program saves, then this ends.
stop() {
  trap '' INT TERM
  echo "stopping: up to $grace seconds to save" >&2
  on "bash $folder/host.sh stop" || true
  jobs -p | xargs -r kill 2> /dev/null || true
  exit 143
}
trap stop INT TERM
