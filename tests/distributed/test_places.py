"""Which process of which cluster this is."""

import http.server
import threading

import pytest

from prefixrl_jax.distributed import places
from prefixrl_jax.distributed.places import Place
from prefixrl_jax.types import UserError

_SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "gpu[003-004,009]",
  "SLURM_STEP_NUM_NODES": "3",
  "SLURM_STEP_NUM_TASKS": "3",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}
_MPI = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "3",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
  "OMPI_MCA_orte_hnp_uri": "15.0;tcp://10.96.0.1,10.1.0.1:34911",
}
_GKE = {
  "TPU_WORKER_HOSTNAMES": "job-0.math,job-1.math",
  "TPU_WORKER_ID": "1",
}
_SLICES = {
  **_GKE,
  "MEGASCALE_NUM_SLICES": "2",
  "MEGASCALE_SLICE_ID": "1",
  "MEGASCALE_COORDINATOR_ADDRESS": "first.math:9000",
}


@pytest.mark.parametrize(
  ("variables", "place"),
  [
    (_SLURM, Place("gpu003:61447", 3, 2)),
    (_SLURM | {"SLURM_STEP_NODELIST": "a-1,b"}, Place("a-1:61447", 3, 2)),
    # Two tasks on a node have a GPU each.
    (
      _SLURM | {"SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"},
      Place("gpu003:61447", 3, 2, (1,)),
    ),
    (_MPI, Place("10.96.0.1:8476", 4, 3, (1,))),
    (_GKE, Place("job-0.math:8476", 2, 1)),
    (_SLICES, Place("first.math:8476", 4, 3)),
    (
      {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.9\n",
        "SKYPILOT_NODE_RANK": "1",
      },
      Place("10.0.0.7:8476", 2, 1),
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "c:1",
        "JAX_NUM_PROCESSES": "2",
        "JOB_COMPLETION_INDEX": "1",
      },
      Place("c:1", 2, 1),
    ),
  ],
)
def test_what_started_a_process_says_which_it_is(variables, place):
  assert places.find(environment=variables) == place


@pytest.mark.parametrize(
  "variables",
  [
    {},
    {"JOB_COMPLETION_INDEX": "0"},
    _SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
    {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a batch script, no task
    {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
  ],
)
def test_a_process_alone_is_in_no_cluster(variables):
  assert places.find(environment=variables) is None
  assert places.find(size=1, index=0, environment=variables) is None


def test_flags_come_before_what_is_found():
  place = places.find("here:1", 8, 5, environment=_SLURM)
  assert place == Place("here:1", 8, 5)
  assert places.find("here:1", environment=_MPI) == Place("here:1", 4, 3, (1,))
  assert places.find("here", 2, 0, environment={}) == Place("here:8476", 2, 0)


@pytest.mark.parametrize(
  ("flags", "variables", "said"),
  [
    (("", 2, 0), {}, "coordinator unknown"),
    (("a:1", 2, -1), {}, "process_id unknown"),
    (("a:1", 0, 1), {}, "num_processes unknown"),
    (("a:1", 2, 2), {}, r"--process_id=2: .* must be one of 0 to 1"),
    (("a:port", 2, 1), {}, "must be HOST:PORT"),
    (("a:65536", 2, 1), {}, "a port from 1 to 65535"),
    (("a:0", 2, 1), {}, "a port from 1 to 65535"),
    (
      ("", 0, -1),
      {"JAX_PROCESS_ID": "one"},
      "JAX_PROCESS_ID=one is not a number",
    ),
    (("", 0, -1), _MPI | {"OMPI_MCA_orte_hnp_uri": ""}, "coordinator unknown"),
  ],
)
def test_what_is_missing_or_wrong_is_named(flags, variables, said):
  with pytest.raises(UserError, match=said):
    places.find(*flags, environment=variables)


class _Metadata(http.server.BaseHTTPRequestHandler):
  attributes = {  # noqa: RUF012
    "worker-network-endpoints": "t-0:8470:10.0.0.4,t-1:8470:10.0.0.5",
    "agent-worker-number": "1",
    "tpu-env": "ZONE: 'z'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'",
  }

  def do_GET(self):
    value = self.attributes.get(self.path.rpartition("/")[2])
    asked = self.headers["Metadata-Flavor"] == "Google"
    self.send_response(200 if value and asked else 404)
    self.end_headers()
    self.wfile.write((value or "").encode())

  def log_message(self, *_):
    pass


def test_a_tpu_vm_asks_its_metadata():
  with http.server.HTTPServer(("localhost", 0), _Metadata) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"localhost:{server.server_port}"
    variables = {"GCE_METADATA_IP": address}
    find = lambda has_tpu, **more: places.find(
      has_tpu=lambda: has_tpu, environment=variables | more
    )
    assert find(True) == Place("10.0.0.4:8476", 4, 3)
    assert find(False) is None
    assert find(True, TPU_SKIP_MDS_QUERY="1") is None
    server.shutdown()
  assert find(True) is None  # nobody answers: as on Colab
