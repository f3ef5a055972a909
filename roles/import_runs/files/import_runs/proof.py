"""Compares a source with what the server's API gives of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from artifacts import PIECE, Found, sha256_of
from fitting import Fitted
from histories import Histories, Items, Job, told
from parts import BadError, Experiment, ImportFailure, Part, Point
from places import PROXIED
from planning import Plan
from registered import DELETED, USED_BY, experiments_of
from said import Progress

KINDS = (
    *(
        "experiments",
        "runs",
        "params",
        "tags",
        "metrics",
        "latest_metrics",
        "inputs",
        "models",
        "traces",
        "assessments",
    ),
    *("spans", "registered_models", "versions", "aliases", "artifacts"),
)
# MLflow's server refuses paths with these, or changes them.
REFUSED = set("#%")
# Made once: millions of points are written with it.
AS_TEXT = json.JSONEncoder(sort_keys=True).encode


class Sum:
    """A checksum of many things, whatever their order.

    Args:
        texts: The first of them, as text.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Begin with some things, or with nothing."""
        self.number, self.sum = 0, 0
        for text in texts:
            self.number += 1
            self.sum += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")

    def add(self, other: Sum) -> None:
        """Add what another has."""
        self.number += other.number
        self.sum = (self.sum + other.sum) % 2**256

    def __str__(self) -> str:
        """Return it as text."""
        return f"{self.sum:064x}"


class Proof:
    """One comparison.

    Args:
        plan: The import, which has been looked at.
        api: Address of the server.
        threads: Requests at once.
    """

    def __init__(self, plan: Plan, api: str, threads: int) -> None:
        """Prepare; nothing is asked of the server yet."""
        mlflow.set_tracking_uri(api)
        mlflow.set_registry_uri(api)
        self.client = mlflow.MlflowClient(api, api)
        self.plan, self.api, self.threads = plan, api, threads
        self.histories = Histories(self.client, api)
        self.sums = {side: {kind: Sum() for kind in KINDS} for side in ("source", "server")}
        self.different: list[str] = []
        # What datasets hold, by the source's id.
        self.datasets: dict[str, list[str]] = {}
        # What the API gives to nobody was looked for in the database and in the store: its number, and artifacts.
        self.hidden: Counter[str] = Counter()
        self.refused: list[str] = []

    def run(self) -> dict[str, Any]:
        """Compare all. Returns the sums by kind."""
        plan = self.plan
        plan.fitter.datasets = {}
        counts = plan.survey.counts
        self.progress = Progress(
            "prove", {"runs": counts["runs"], "metric points": counts["metrics"], "artifacts": counts["artifacts"]}
        )
        with ThreadPoolExecutor(self.threads) as pool:
            for experiment in plan.experiments():
                self._experiment(experiment)
                self._each(pool, self._parts(experiment))
            for part in plan.source.registry():
                if part.key in plan.survey.models:
                    self._registered(pool, part)
        self.progress.end()
        return {
            kind: {
                "source": self.sums["source"][kind].number,
                "server": self.sums["server"][kind].number,
                "sha256": str(self.sums["server"][kind]),
                "equal": self.sums["source"][kind].sum == self.sums["server"][kind].sum,
            }
            for kind in KINDS
        }

    def _each(self, pool: ThreadPoolExecutor, jobs: Iterator[Job]) -> None:
        """Compare things a few at once: what the source says is read here, in one thread."""
        while batch := list(itertools.islice(jobs, self.threads * 4)):
            for name, expected, found in pool.map(self._asked, batch):
                self._compare(name, expected, found)

    @staticmethod
    def _asked(job: Job) -> tuple[str, Items, Items | str]:
        name, expected, ask = job
        try:
            return name, expected, ask()
        except (MlflowException, OSError) as error:
            return name, expected, " ".join(str(error).split())[:300]

    def _compare(self, name: str, expected: Items, found: Items | str) -> None:
        """Add up both sides, and name what differs."""
        texts = {kind: _texts(items) for kind, items in expected.items()}
        sums = {kind: Sum(each) for kind, each in texts.items()}
        for kind, each in sums.items():
            self.sums["source"][kind].add(each)
        if isinstance(found, str):
            self.different.append(f"{name}: the server says: {found}")
            return
        for kind, items in found.items():
            given = _texts(items)
            if given == texts.get(kind, []):
                self.sums["server"][kind].add(sums.get(kind, Sum()))
            else:
                self.sums["server"][kind].add(Sum(given))
                self.different.append(f"{name}: {kind} differ")
        for kind, number in (("runs", "runs"), ("metrics", "metric points"), ("artifacts", "artifacts")):
            if kind in found:
                self.progress.add(number, len(found[kind]))

    def _experiment(self, experiment: Experiment) -> None:
        goal = self.plan.goal(experiment)
        name = f"experiment {goal.new} ({goal.name})"
        try:
            rows = self.plan.fitter.own(experiment.path, experiment.rows(), goal)
        except BadError:
            return
        own = self._named("experiments", rows)[0]
        tags = {row["key"]: row["value"] for row in self._named("experiment_tags", rows)}
        names = ("name", "digest", "dataset_source_type", "dataset_source", "dataset_schema", "dataset_profile")
        for row in self._named("datasets", rows):
            self.datasets[row["dataset_uuid"]] = [row[name] or "" for name in names]

        def ask() -> Items:
            found = self.client.get_experiment(str(goal.new))
            given = {key: found.tags.get(key) for key in tags}
            if goal.merged:
                # Of what the server had before, its own stays.
                given = tags
            stage = own["lifecycle_stage"] if goal.merged else found.lifecycle_stage
            return {"experiments": [[found.experiment_id, found.name, stage, found.artifact_location, given]]}

        stage = own["lifecycle_stage"]
        expected = {"experiments": [[str(goal.new), goal.name, stage, goal.location, tags]]}
        self._compare(*self._asked((name, expected, ask)))

    def _named(self, table: str, rows: Iterable[Fitted]) -> list[dict[str, Any]]:
        names = list(self.plan.schema.tables[table])
        return [dict(zip(names, values, strict=True)) for each, values in rows if each == table]

    def _parts(self, experiment: Experiment) -> Iterator[Job]:
        """Return what is to be asked about all of an experiment."""
        for part in self.plan.parts(experiment):
            yield from self._part(experiment, part)
        yield from self.histories.rest()

    def _part(self, experiment: Experiment, part: Part) -> Iterator[Job]:
        """Return what is to be asked about a part, and what the answers have to be."""
        goal = self.plan.goal(experiment)
        try:
            rows = self.plan.fitter.part(part, goal)
        except BadError:
            return
        yield from {"run": self._run, "model": self._model, "trace": self._trace}[part.kind](part, rows)
        found = self.plan.found(part)
        if found and found.files:
            yield from self._artifacts(part.path, self.plan.fitter.location(part, goal), found)

    def _run(self, part: Part, rows: list[Fitted]) -> Iterator[Job]:
        run = self._named("runs", rows)[0]
        key = part.key
        latest = []
        for name, group in itertools.groupby(part.points(), key=lambda point: point[0]):
            ordered = sorted(set(group), key=lambda point: (point[3], point[2], point[1], point[4]))
            points = [_plain(key, each) for each in ordered]
            latest.append(points[-1])
            yield from self.histories.add(key, name, points)
        place, stage = [run["artifact_uri"], str(run["experiment_id"])], run["lifecycle_stage"]
        expected = {
            "runs": [
                [key, run["name"] or "", run["status"], run["start_time"] or 0, run["end_time"] or 0, stage, place],
            ],
            "params": [[key, row["key"], row["value"]] for row in self._named("params", rows)],
            "tags": [[key, row["key"], row["value"]] for row in self._named("tags", rows)],
            "latest_metrics": latest,
            "inputs": sorted(self._edges(key, rows)),
        }
        yield f"run {key}", expected, lambda: self._ask_run(key, {row["key"] for row in self._named("tags", rows)})

    def _edges(self, key: str, rows: list[Fitted]) -> Iterator[list[Any]]:
        tags: dict[str, dict[str, str]] = {}
        for row in self._named("input_tags", rows):
            tags.setdefault(row["input_uuid"], {})[row["name"]] = row["value"]
        for row in self._named("inputs", rows):
            if row["source_type"] == "DATASET":
                yield [key, "dataset", self.datasets.get(row["source_id"]), 0, tags.get(row["input_uuid"], {})]
            elif row["source_type"] in {"RUN_INPUT", "RUN_OUTPUT"}:
                kind = "model" if row["source_type"] == "RUN_INPUT" else "output"
                yield [key, kind, row["destination_id"], row["step"] if kind == "output" else 0, {}]

    def _ask_run(self, key: str, tags: set[str]) -> Items:
        found = self.client.get_run(key)
        info = found.info
        edges: list[list[Any]] = [
            [key, "dataset", _dataset(each.dataset), 0, {tag.key: tag.value for tag in each.tags}]
            for each in found.inputs.dataset_inputs
        ]
        edges += [[key, "model", each.model_id, 0, {}] for each in found.inputs.model_inputs or []]
        edges += [[key, "output", each.model_id, each.step, {}] for each in found.outputs.model_outputs or []]
        # What is not known is nothing or zero, as it comes over the wire.
        place, stage = [info.artifact_uri, info.experiment_id], info.lifecycle_stage
        return {
            "runs": [
                [key, info.run_name or "", info.status, info.start_time or 0, info.end_time or 0, stage, place],
            ],
            "params": [[key, name, value] for name, value in found.data.params.items()],
            "tags": [[key, name, value] for name, value in found.data.tags.items()],
            "latest_metrics": [
                told(key, each.key, each.value, each.timestamp, each.step) for each in found.data._metric_objs
            ],
            "inputs": sorted(edges),
        }

    def _model(self, part: Part, rows: list[Fitted]) -> Iterator[Job]:
        key = part.key
        own = self._named("logged_models", rows)[0]
        if own["lifecycle_stage"] == "deleted":
            # The API tells nothing of one that is deleted.
            self._hidden("models", "logged_models", f"model {key}", model_id=key, lifecycle_stage="deleted")
            return
        params = {row["param_key"]: row["param_value"] for row in self._named("logged_model_params", rows)}
        tags = {row["tag_key"]: row["tag_value"] for row in self._named("logged_model_tags", rows)}
        names = ("metric_name", "metric_value", "metric_timestamp_ms", "metric_step", "run_id")
        metrics = sorted(
            {tuple(map(str, (row[each] for each in names))) for row in self._named("logged_model_metrics", rows)}
        )
        expected = [key, own["name"], own["artifact_location"], own["model_type"] or None, own["source_run_id"] or None]
        expected += [params, tags]

        def ask() -> Items:
            found = self.client.get_logged_model(key)
            given = {
                tuple(map(str, (each.key, each.value, each.timestamp, each.step, each.run_id)))
                for each in found.metrics or []
            }
            head = [found.model_id, found.name, found.artifact_location, found.model_type or None]
            head += [found.source_run_id or None, dict(found.params), {each: found.tags.get(each) for each in tags}]
            # The API gives the latest of each metric.
            return {"models": [[*head, given <= set(metrics) and bool(given) == bool(metrics)]]}

        yield f"model {key}", {"models": [[*expected, True]]}, ask

    def _hidden(self, kind: str, table: str, title: str, /, **key: Any) -> None:
        """Look in the database for what is deleted, of which the API tells nothing."""
        self.hidden[kind] += 1
        condition = " AND ".join(f"{column} = %({column})s" for column in key)
        with self.plan.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table} WHERE {condition}", key)  # noqa: S608 - constants
            if not cursor.fetchone()[0]:
                self.different.append(f"{title}, which is deleted, is not in the database")
        self.plan.connection.rollback()

    def _trace(self, part: Part, rows: list[Fitted]) -> Iterator[Job]:
        key = part.key
        own = self._named("trace_info", rows)[0]
        tags = {row["key"]: row["value"] for row in self._named("trace_tags", rows)}
        metadata = {row["key"]: row["value"] for row in self._named("trace_request_metadata", rows)}
        assessments = [
            [row["assessment_id"], row["name"], json.loads(row["value"]), row["rationale"], row["valid"]]
            for row in self._named("assessments", rows)
        ]
        spans = sorted(row["span_id"] for row in self._named("spans", rows))

        def ask() -> Items:
            info = self.client._tracing_client.get_trace_info(key)
            head = [
                info.trace_id,
                info.experiment_id,
                info.request_time,
                info.execution_duration or 0,
                info.state.value,
            ]
            head += [
                {each: info.tags.get(each) for each in tags},
                {each: info.trace_metadata.get(each) for each in metadata},
            ]
            given = [
                [each.assessment_id, each.name, _value(each), each.rationale, each.valid is not False]
                for each in info.assessments
            ]
            stored = []
            if spans:
                trace = self.client.get_trace(key, display=False)
                stored = [[key, each] for each in sorted(span.span_id for span in trace.data.spans)]
            return {"traces": [head], "assessments": given, "spans": stored}

        expected = [key, str(own["experiment_id"]), own["timestamp_ms"], own["execution_time_ms"] or 0, own["status"]]
        yield (
            f"trace {key}",
            {
                "traces": [[*expected, tags, metadata]],
                "assessments": assessments,
                "spans": [[key, each] for each in spans],
            },
            ask,
        )

    def _artifacts(self, path: str, location: str, found: Found) -> Iterator[Job]:
        def asked(name: str, local: str) -> Callable[[], Items]:
            def ask() -> Items:
                try:
                    return {"artifacts": [[location, name, self._read(location, name)]]}
                except Exception as error:
                    given = name.isprintable() and not set(name) & REFUSED
                    if given or not self.plan.destination.has(location, name, local):
                        raise OSError(f"it cannot be had: {error}") from error
                    self.hidden["artifacts"] += 1
                    self.refused.append(f"{path}/artifacts/{name}")
                    return {"artifacts": [[location, name, sha256_of(local)]]}

            return ask

        for name, local, _ in found.files:
            try:
                expected = {"artifacts": [[location, name, sha256_of(local)]]}
            except OSError as error:
                raise ImportFailure(f"The artifact {local} cannot be read: {error.strerror}.") from error
            yield f"artifact {path}/artifacts/{name}", expected, asked(name, local)

    def _read(self, location: str, name: str) -> str:
        """Return the checksum of an artifact as the server or its store gives it."""
        if location.startswith(PROXIED):
            # Not by MLflow's client, which does not quote names.
            path = quote(f"{location.removeprefix(PROXIED).strip('/')}/{name}")
            answer = http_request(
                get_default_host_creds(self.api), f"/api/2.0/mlflow-artifacts/artifacts/{path}", "GET", stream=True
            )
            augmented_raise_for_status(answer)
            digest = hashlib.sha256()
            for piece in answer.iter_content(PIECE):
                digest.update(piece)
            return digest.hexdigest()
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, "artifact")
            get_artifact_repository(location)._download_file(name, str(local))
            return sha256_of(local)

    def _registered(self, pool: ThreadPoolExecutor, part: Part) -> None:
        name, merged = self.plan.survey.models[part.key]
        try:
            rows, copies = self.plan.registered_rows(part)
        except BadError:
            return
        own = self._named("registered_models", rows)[0]
        tags = {row["key"]: row["value"] for row in self._named("registered_model_tags", rows)}
        aliases = {row["alias"]: row["version"] for row in self._named("registered_model_aliases", rows)}

        def ask() -> Items:
            # Not the client's own function, which hides prompts.
            found = self.client._get_registry_client().get_registered_model(name)
            mine = dict(found.aliases)
            given = {each: int(mine[each]) for each in aliases if each in mine}
            if merged:
                return {"registered_models": [[name, own["description"], tags]], "aliases": _pairs(name, aliases)}
            # Not its public tags, which hide what makes it a prompt.
            told = {each: found._tags.get(each) for each in tags}
            if {*experiments_of(tags.get(USED_BY, ""))} <= {*experiments_of(told.get(USED_BY) or "")}:
                told |= {USED_BY: tags[USED_BY]} if USED_BY in tags else {}
            return {
                "registered_models": [[found.name, found.description or None, told]],
                "aliases": _pairs(name, given),
            }

        expected: Items = {
            "registered_models": [[name, own["description"] or None, tags]],
            "aliases": _pairs(name, aliases),
        }
        self._compare(*self._asked((f"registered model {name}", expected, ask)))
        for version in self._named("model_versions", rows):
            self._version(name, version, rows)
        self._each(
            pool,
            itertools.chain.from_iterable(self._artifacts(part.path, location, found) for location, found in copies),
        )

    def _version(self, name: str, own: dict[str, Any], rows: list[Fitted]) -> None:
        number = own["version"]
        if own["current_stage"] == DELETED:
            self._hidden("versions", "model_versions", f"version {number} of {name}", name=name, version=number)
            return
        tags = {row["key"]: row["value"] for row in self._named("model_version_tags", rows) if row["version"] == number}

        def ask() -> Items:
            found = self.client._get_registry_client().get_model_version(name, str(number))
            head = [name, int(found.version), found.source, found.run_id or None, found.status, found.current_stage]
            given = {each: found._tags.get(each) if hasattr(found, "_tags") else found.tags.get(each) for each in tags}
            return {"versions": [[*head, found.description or None, given]]}

        expected = [name, number, own["source"], own["run_id"] or None, own["status"], own["current_stage"]]
        expected += [own["description"] or None, tags]
        self._compare(*self._asked((f"version {number} of {name}", {"versions": [expected]}, ask)))


def _pairs(name: str, aliases: dict[str, int]) -> list[Any]:
    return [[name, alias, version] for alias, version in sorted(aliases.items())]


def _texts(items: list[Any]) -> list[str]:
    return sorted(map(AS_TEXT, items))


def _plain(run_id: str, point: Point) -> list[Any]:
    """Return a point as the API gives it."""
    key, value, timestamp, step, is_nan = point
    return told(run_id, key, math.nan if is_nan else value, timestamp, step)


def _dataset(dataset: Any) -> list[str]:
    given = (dataset.name, dataset.digest, dataset.source_type, dataset.source, dataset.schema, dataset.profile)
    return [each or "" for each in given]


def _value(assessment: Any) -> Any:
    return assessment.feedback.value if assessment.feedback is not None else assessment.expectation.value
