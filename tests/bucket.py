"""A bucket that is not there: what the clients of Google Cloud Storage see.

Like one, it has objects and no folders; an object is there when it has been
written, whole, and none can be appended to. fsspec has it as gs://, in gcsfs's
place, which keeps what it has listed, too; TensorStore, with which Orbax reads
and writes arrays, over HTTP.
"""

import contextlib
import http.server
import importlib
import io
import itertools
import json
import re
import sys
import threading
import types
import urllib.parse

import fsspec


class Bucket:
  """Its objects: {bucket/name: (bytes, generation)}."""

  def __init__(self):
    self.objects = {}
    self.is_forbidden = False
    self._generations = itertools.count(1)
    self._lock = threading.Lock()

  def check(self):
    if self.is_forbidden:
      raise Forbidden("Caller does not have storage.objects.list access")

  def put(self, name, data, match=None):
    """Returns the generation; None if `match` is not the one that is there."""
    self.check()
    with self._lock:
      there = self.objects.get(name, (b"", 0))[1]
      if match is not None and match != there:
        return None
      generation = next(self._generations)
      self.objects[name] = (bytes(data), generation)
      return generation


class Forbidden(Exception):
  """As gcsfs's HttpError, no OSError."""


class _Writing(io.BytesIO):
  def __init__(self, bucket, name):
    super().__init__()
    self._bucket, self._name = bucket, name

  def close(self):
    if not self.closed:
      self._bucket.put(self._name, self.getvalue())
    super().close()


class _FileSystem(fsspec.AbstractFileSystem):
  protocol = ("gs", "gcs")
  bucket = Bucket()

  def ls(self, path, detail=True, **_):
    self.bucket.check()
    path = self._strip_protocol(path)
    entries = self.dircache.get(path) or self._list(path)
    self.dircache[path] = entries  # unless it is told to keep none
    return entries if detail else [entry["name"] for entry in entries]

  def _list(self, path):
    objects = self.bucket.objects
    found = {}
    if path in objects:
      found[path] = ("file", len(objects[path][0]))
    for name, (data, _) in list(objects.items()):
      if name.startswith(path + "/"):
        head, slash, _ = name[len(path) + 1 :].partition("/")
        found[f"{path}/{head}"] = (
          ("directory", 0) if slash else ("file", len(data))
        )
    if not found:
      raise FileNotFoundError(path)
    return [
      {"name": name, "type": kind, "size": size}
      for name, (kind, size) in sorted(found.items())
    ]

  def info(self, path, **_):
    path = self._strip_protocol(path)
    for entry in self.ls(path):
      if entry["name"] == path:
        return entry
    return {"name": path, "type": "directory", "size": 0}

  def _open(self, path, mode="rb", **_):
    self.bucket.check()
    if mode == "wb":
      return _Writing(self.bucket, path)
    assert mode == "rb", f"an object is not opened with {mode}"
    if path not in self.bucket.objects:
      raise FileNotFoundError(path)
    return io.BytesIO(self.bucket.objects[path][0])

  def pipe_file(self, path, value, mode="overwrite", **_):
    match = 0 if mode == "create" else None
    if self.bucket.put(self._strip_protocol(path), value, match) is None:
      raise FileExistsError(path)

  def cp_file(self, path1, path2, **_):
    path1, path2 = map(self._strip_protocol, (path1, path2))
    if path1 in self.bucket.objects:
      self.bucket.put(path2, self.bucket.objects[path1][0])

  def rm_file(self, path):
    self.bucket.check()
    self.bucket.objects.pop(self._strip_protocol(path), None)

  def mkdir(self, path, create_parents=True, **_):
    """There are none."""

  def makedirs(self, path, exist_ok=False):
    """There are none."""


class _Server(http.server.BaseHTTPRequestHandler):
  """What TensorStore asks for, of the JSON API."""

  protocol_version = "HTTP/1.1"
  bucket: Bucket

  def _asked(self):
    url = urllib.parse.urlsplit(self.path)
    found = re.fullmatch(
      r"(?:/upload)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", url.path
    )
    query = {k: v for k, [v] in urllib.parse.parse_qs(url.query).items()}
    name = found[2] or query.get("name")
    return found[1], name and urllib.parse.unquote(name), query

  def _answer(self, code, body=b"", **headers):
    self.send_response(code)
    for key, value in headers.items():
      self.send_header(key.replace("_", "-"), str(value))
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _said(self, name, data, generation):
    return {"name": name, "size": str(len(data)), "generation": str(generation)}

  def do_GET(self):
    bucket, name, query = self._asked()
    objects = self.bucket.objects
    if name is None:
      prefix = f"{bucket}/{query.get('prefix', '')}"
      items = [
        self._said(key.partition("/")[2], *value)
        for key, value in sorted(objects.items())
        if key.startswith(prefix)
      ]
      self._answer(200, json.dumps({"items": items}).encode())
      return
    if f"{bucket}/{name}" not in objects:
      self._answer(404)
      return
    data, generation = objects[f"{bucket}/{name}"]
    if query.get("ifGenerationNotMatch") == str(generation):
      self._answer(304)
    elif query.get("alt") != "media":
      self._answer(200, json.dumps(self._said(name, data, generation)).encode())
    else:
      code, headers = 200, {"x_goog_generation": generation}
      if span := re.fullmatch(
        r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")
      ):
        start, end = int(span[1]), int(span[2] or len(data) - 1)
        headers["Content_Range"] = (
          f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
        )
        code, data = 206, data[start : end + 1]
      self._answer(code, data, **headers)

  def do_POST(self):
    bucket, name, query = self._asked()
    data = self.rfile.read(int(self.headers["Content-Length"]))
    match = query.get("ifGenerationMatch")
    generation = self.bucket.put(
      f"{bucket}/{name}", data, None if match is None else int(match)
    )
    if generation is None:
      self._answer(412)
      return
    self._answer(200, json.dumps(self._said(name, data, generation)).encode())

  def do_DELETE(self):
    bucket, name, _ = self._asked()
    there = self.bucket.objects.pop(f"{bucket}/{name}", None)
    self._answer(204 if there else 404)

  def log_message(self, *_):
    """Keeps quiet."""


@contextlib.contextmanager
def served(monkeypatch):
  """Yields a bucket that is there for all clients."""
  bucket = Bucket()
  monkeypatch.setattr(_FileSystem, "bucket", bucket)
  known = importlib.import_module("fsspec.registry")._registry
  for name in _FileSystem.protocol:
    monkeypatch.setitem(known, name, _FileSystem)
  # Orbax asks whether its folders are folders.
  client = types.SimpleNamespace(
    get_bucket=lambda _: types.SimpleNamespace(
      hierarchical_namespace_enabled=False
    )
  )
  storage = types.ModuleType("google.cloud.storage")
  storage.Client = lambda: client
  cloud = types.ModuleType("google.cloud")
  cloud.storage = storage
  monkeypatch.setitem(sys.modules, "google.cloud", cloud)
  monkeypatch.setitem(sys.modules, "google.cloud.storage", storage)
  handler = type("_Handler", (_Server,), {"bucket": bucket})
  server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  address = f"http://localhost:{server.server_port}"
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  try:
    yield bucket
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
