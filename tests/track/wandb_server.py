"""A small W&B server on loopback: what wandb 0.31 asks of one when a run is sent, and what was sent to it.

    with wandb_server() as server:
        ...                                             # with server.environment
        server.runs["ab12cd34"].steps()                 # [50, 100, 150]

It keeps the lines of a run's history under the offsets that wandb names, as W&B does, and tells a resumed run how far
it is. Tables are artifacts there, which it does not have: it refuses them, and wandb goes on without.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loopback import QuietHandler, listening

KEY = "0" * 40
OPERATION = re.compile(r"(?:query|mutation) (\w+)")


@dataclass
class SentRun:
    """What the server knows of a run."""

    project: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    num_starts: int = 0

    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]

    def series(self, key: str) -> dict[int, Any]:
        return {row["_step"]: row[key] for row in self.history if key in row}


class WandbServer:
    """The server's state; `is_stuck` set, it answers nothing until `release` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[str, SentRun] = {}
        self.operations: list[str] = []
        self.is_stuck = False
        self.release = threading.Event()

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        match = OPERATION.search(query)
        operation = match[1] if match else query.strip()
        self.operations.append(operation)
        if operation == "Viewer":
            viewer = {"id": "u", "entity": "we", "username": "we", "email": "", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            bucket = None if run is None else self._bucket(variables["name"], run)
            return {"model": {"id": "m", "name": variables["project"], "entity": ENTITY, "bucket": bucket}}
        if operation == "UpsertBucket":
            return self._upsert(variables)
        if operation == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{variables['run']}/{name}"}
                for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        raise LookupError(operation)

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Take a request of the file stream: lines of history at their offset, the summary, the end."""
        run = self.runs[run_id]
        for name, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                run.history[chunk["offset"] : chunk["offset"] + len(lines)] = lines
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables.get("id")
        is_new = name not in self.runs
        run = self.runs.setdefault(
            name, SentRun(project=variables.get("project") or "", name=variables.get("displayName") or "")
        )
        run.num_starts += 1
        if variables.get("config"):
            run.config = {key: entry.get("value") for key, entry in json.loads(variables["config"]).items()}
        bucket = self._bucket(name, run)
        bucket |= {"sweepName": None, "description": "", "project": {"id": "p", "name": run.project, "entity": ENTITY}}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _bucket(self, name: str, run: SentRun) -> dict[str, Any]:
        tail = [json.dumps(row) for row in run.history[-1:]]
        return {
            "id": name,
            "name": name,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": [],
            "notes": "",
            "wandbConfig": '{"t": 1}',
        }


ENTITY = {"id": "e", "name": "we"}


@contextmanager
def wandb_server(server: WandbServer | None = None) -> Iterator[WandbServer]:
    """Serve while the block runs, on a new port; with the runs of an earlier server where one is given."""
    server = WandbServer() if server is None else server

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            _, _, run_id, name = self.path.split("/", 3)
            server.runs[run_id].files[name] = self._body()
            self._reply({})

        def do_POST(self) -> None:
            body = self._body()
            if server.is_stuck:
                server.release.wait()
            if self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
                self._reply({"exitcode": None, "limits": {}})
                return
            if self.path != "/graphql":
                self._reply({})
                return
            asked = json.loads(body)
            try:
                self._reply({"data": server.answer(asked["query"], asked.get("variables") or {})})
            except LookupError as error:
                self._reply({"errors": [{"message": f"{error}: unknown here"}]})

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _reply(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with listening(Handler) as url:
        server.url = url
        try:
            yield server
        finally:
            server.release.set()
