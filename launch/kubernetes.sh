# shellcheck shell=bash
# What launchers of JobSets share. Sourced by a run.sh that has set these.
: "${launch:?}" "${commit:?}" "${extras:?}" "${image:?}" "${name:?}"

# The project's commit as an image, unless the registry has it.
build() {
  if docker manifest inspect "$image" > /dev/null 2>&1; then return; fi
  git -C "$launch/.." archive "$commit" |
    docker build --file=launch/docker/tpu.Dockerfile \
      --build-arg=EXTRAS="$extras" --tag="$image" -
  docker push "$image"
}

# Prints the pods' logs, those of restarts too, until the JobSet has ended.
follow() {
  local end=
  while [ -z "$end" ]; do
    kubectl logs --follow --prefix --max-log-requests=256 --tail=-1 \
      --selector="jobset.sigs.k8s.io/jobset-name=$name" 2> /dev/null &
    wait "$!" || true
    sleep 10 &
    wait "$!" || true
    if ! end=$(kubectl get jobset "$name" --ignore-not-found \
      -o jsonpath='{.status.terminalState}{.kind}')
    then
      end= # the cluster does not answer; it goes on without us
    elif [ -z "$end" ]; then
      echo "$name has been deleted" >&2
      return 1
    fi
    end=${end%JobSet}
  done
  echo "$name: $end" >&2
  [ "$end" = Completed ]
}

# Ctrl-C and SIGTERM: the pods are told, and have their grace period.
stop() {
  trap '' INT TERM
  kubectl delete jobset "$name"
  exit 143
}
trap stop INT TERM
