"""What tests need of W&B: a server on loopback that knows a few runs, and a run read back.

with Server() as server:
monkeypatch.setenv("WANDB_BASE_URL", server.url)
...
server.runs["abc"].rows
"""

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from computemeter_wandb._offline import OfflineError, read_offline_run

SOON = 30.0
"""Seconds that W&B's own process may take; nothing is measured by it."""

OWNER = {"id": "e1", "name": "ann"}


def finish(run):
    """Finish a run; see `read_back`."""
    folder = Path(run.dir).parent
    run.finish()
    return read_back(folder)


def read_back(folder):
    """Read the run in a folder, once W&B's own process has written the end of it."""
    (path,) = folder.glob("*.wandb")
    deadline = time.monotonic() + SOON
    while True:
        try:
            found = read_offline_run(path)
        except OfflineError:
            found = None
        if found and found.exit_code is not None:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def logged(found):
    """Return the rows without what W&B adds to each, but for its step."""
    return [
        {key: value for key, value in row.items() if not key.startswith("_") or key == "_step"}
        for row in found.history
    ]


@dataclass
class Stored:
    """A run on the server."""

    name: str
    display: str = ""
    state: str = "running"
    created: str = "2025-01-01T00:00:00Z"
    heartbeat: str = "2025-01-01T00:01:00Z"
    user: str = "ann"
    rows: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    tags: list = field(default_factory=list)
    config: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    def node(self):
        """Describe it as W&B's GraphQL does."""
        keys = {key: {} for row in self.rows for key in row}
        return {
            "id": f"storage-{self.name}",
            "name": self.name,
            "displayName": self.display,
            "state": self.state,
            "config": json.dumps({key: {"value": value} for key, value in self.config.items()}),
            "tags": self.tags,
            "createdAt": self.created,
            "heartbeatAt": self.heartbeat,
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyLineCount": len(self.rows),
            "user": {"name": self.user, "username": self.user},
            "historyKeys": {"keys": keys, "lastStep": len(self.rows) - 1},
            "projectId": "1",
        }


class Server:
    """As much of W&B's server as its client asks for. What it stores is in `runs`."""

    def __init__(self, page=500):
        self.runs = {}
        self.page = page
        self.pages_asked = 0
        self.files_asked = []
        self.joined = []
        server = self

        class Handler(_Handler):
            state = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Stop; nothing listens on its port any more."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query, given):
        """Answer one GraphQL query; what is not known is answered with nothing."""
        for word, ask in {
            "upsertBucket": self._upserted,
            "query RunResumeStatus": self._resumed,
            "query Runs": self._listed,
            "query RunFiles": self._files,
            "query Run": self._run,
            "History": self._run,
            "createRunFiles": lambda _: {
                "createRunFiles": {"runID": "b1", "uploadHeaders": [], "files": []}
            },
            "serverInfo": lambda _: {"serverInfo": {"features": []}},
        }.items():
            if word in query:
                return ask(given)
        return {"viewer": {"id": "v", "username": "ann", "entity": "ann", "flags": "{}"}}

    def store(self, run, files):
        """Take what a run streams."""
        for line in files.get("wandb-history.jsonl", {}).get("content", ()):
            run.rows.append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", ()):
            run.summary = json.loads(line)

    def _upserted(self, given):
        self.joined.append(given["name"])
        run = self.runs.setdefault(given["name"], Stored(given["name"]))
        run.state = "running"
        run.display = given.get("displayName") or run.display
        node = {**run.node(), "project": _PROJECT, "sweepName": None, "description": None}
        bucket = {**node, "displayName": run.display or "unnamed"}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _resumed(self, given):
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": {**_PROJECT, "bucket": None}}
        lines = {"historyLineCount": len(run.rows), "eventsLineCount": 0, "logLineCount": 0}
        tails = {
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
            "eventsTail": "[]",
        }
        bucket = {**run.node(), **lines, **tails, "wandbConfig": '{"t": {}}'}
        return {"model": {**_PROJECT, "bucket": bucket}}

    def _listed(self, given):
        self.pages_asked += 1
        wanted = json.loads(given.get("filters") or "{}").get("name", {}).get("$in")
        runs = [run for run in self.runs.values() if wanted is None or run.name in wanted]
        start = int(given.get("cursor") or 0)
        end = start + min(self.page, given["perPage"])
        edges = [{"node": run.node(), "cursor": str(end)} for run in runs[start:end]]
        more = {"hasNextPage": end < len(runs), "endCursor": str(end)}
        listed = {"runCount": len(runs), "runs": {"edges": edges, "pageInfo": more}}
        return {"project": {**_PROJECT, **listed}}

    def _files(self, given):
        name, run = given["name"], self.runs[given["name"]]
        self.files_asked.append(name)
        file = {
            "id": "f1",
            "name": "wandb-metadata.json",
            "url": f"{self.url}/metadata/{name}",
            "directUrl": f"{self.url}/metadata/{name}",
            "sizeBytes": len(json.dumps(run.metadata)),
            "mimetype": "application/json",
            "updatedAt": run.heartbeat,
            "md5": "",
        }
        edges = [{"node": file, "cursor": "1"}] if run.metadata else []
        more = {"hasNextPage": False, "endCursor": "1"}
        files = {"edges": edges, "pageInfo": more}
        return {"project": {**_PROJECT, "run": {"fileCount": len(edges), "files": files}}}

    def _run(self, given):
        run = self.runs.get(given.get("run") or given.get("runName") or given.get("name"))
        if run is None:
            return {"project": {**_PROJECT, "run": None}}
        # What a real server has not yet written to Parquet files it answers as "live".
        live = {"parquetUrls": [], "liveData": [{"_step": row["_step"]} for row in run.rows[:1]]}
        keys = set(json.loads(given.get("spec") or "{}").get("keys", ()))
        rows = [{key: row[key] for key in keys} for row in run.rows if keys <= row.keys()]
        history = {"parquetHistory": live, "sampledHistory": [rows]}
        return {"project": {**_PROJECT, "run": {**run.node(), **history}}}


_PROJECT = {"id": "p1", "name": "p", "entity": OWNER, "internalId": "1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        *_, folder, name = self.path.split("/")
        self._reply(self.state.runs[name].metadata if folder == "metadata" else {})

    def do_PUT(self):
        self._body()
        self._reply({})

    def do_POST(self):
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            self._reply({"data": self.state.answer(asked["query"], asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            said = json.loads(body)
            run = self.state.runs[self.path.split("/")[-2]]
            self.state.store(run, said.get("files") or {})
            if said.get("complete"):
                run.state = "failed" if said.get("exitcode") else "finished"
        self._reply({})

    def _body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _reply(self, answer):
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
