"""Two threads in place of two processes of a cluster."""

import threading


class Pair:
  """Two threads that are processes to each other."""

  size, hosts, patience = 2, ("a", "b"), 0.3

  def __init__(self):
    self._values = [None, None]
    self._barrier = threading.Barrier(2, timeout=20)
    self._local = threading.local()

  @property
  def index(self):
    return self._local.index

  def gather(self, what, value):
    self._values[self.index] = (what, value)
    self._barrier.wait()
    both = list(self._values)
    self._barrier.wait()
    assert both[0][0] == both[1][0]
    return [value for _, value in both]

  def run(self, do):
    """Returns what do(index) returns or raises, in each."""
    results = [None, None]

    def one(index):
      self._local.index = index
      try:
        results[index] = do(index)
      except Exception as e:
        results[index] = e

    threads = [threading.Thread(target=one, args=(i,)) for i in range(2)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return results
