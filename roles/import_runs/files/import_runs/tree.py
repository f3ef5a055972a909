"""Reads a directory as MLflow's file store writes it (mlruns/), from MLflow 2.9 on.

What MLflow has itself parses it where it can: traces and assessments. The rest is read here, because a malformed file
must be told and not spoil its run, and because metrics are too many to be objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from parts import Bad, BadError, Experiment, Part, Point, Row, name_fault, point_of
from places import Places

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
META, TRASH, MODELS = "meta.yaml", ".trash", "models"
# Directories of an experiment that are no runs.
RESERVED = {"tags", "datasets", "traces", MODELS}
# Hidden directories are not MLflow's: version control and file managers leave them.
HIDDEN = "."
# Files that version control, file managers and synchronization leave in directories whose other files are entries. A
# name that begins with a dot is a valid name of a parameter, so they are listed.
FOREIGN_FILES = {
    *(".gitkeep", ".gitignore", ".gitattributes", ".keep", ".DS_Store", ".localized", ".directory"),
    *("Thumbs.db", "desktop.ini"),
}
FOREIGN_PREFIXES = ("._", ".nfs", ".fuse_hidden", ".syncthing.")
FOREIGN_DIRECTORIES = {".git", ".svn", ".ipynb_checkpoints", "__MACOSX"}
# Tags in which a client notes which artifacts of a run it has logged.
MODELS_TAG, TABLES_TAG = "mlflow.log-model.history", "mlflow.loggedArtifacts"


def folders(directory: Path) -> list[Path]:
    """Return the directories in one, by name."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(HIDDEN))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in names]


def is_foreign(name: str) -> bool:
    """Return whether a file is known to be another program's, and not an entry."""
    return name in FOREIGN_FILES or name.startswith(FOREIGN_PREFIXES)


def files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Return name and path of the entries below a directory: a slash in a name makes directories."""
    for parent, below, names in os.walk(directory):
        below[:] = sorted(name for name in below if name not in FOREIGN_DIRECTORIES)
        for name in sorted(names):
            path = Path(parent, name)
            if not is_foreign(name):
                yield path.relative_to(directory).as_posix(), path


def text_of(path: Path) -> str:
    """Return what a file holds.

    Raises:
        BadError: It cannot be read, or is no text.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise BadError("it is no UTF-8 text") from error
    except OSError as error:
        raise BadError(f"it cannot be read: {error.strerror}") from error


def yaml_of(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds.

    Raises:
        BadError: It is missing, or no mapping.
    """
    try:
        found = yaml.load(text_of(path), Loader=Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise BadError(f"it is no YAML: {getattr(error, 'problem', None) or 'it is malformed'}") from error
    if not isinstance(found, dict):
        raise BadError("it holds no mapping" if found is not None else "it is empty")
    return found


class Tree:
    """The source that is a directory.

    Args:
        root: The directory: mlruns/ itself.
        artifacts: Another directory in which its artifacts are, if they are elsewhere.
    """

    def __init__(self, root: Path, artifacts: Path | None) -> None:
        """Keep where it is."""
        self.root = root
        self.note: Callable[[Bad], None] = lambda bad: None
        self.places = Places([artifacts, root] if artifacts else [root], root.parent)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _bad(self, path: Path, reason: object, takes: str) -> None:
        self.note(Bad(self._name(path), str(reason), takes))

    def experiments(self) -> Iterator[Experiment]:
        """Return the experiments, those in the trash too."""
        for directory in [*folders(self.root), *folders(self.root / TRASH)]:
            if directory == self.root / MODELS:
                continue
            if not directory.name.isdecimal():
                # Since MLflow 2 ids are numbers; without a meta.yaml it is no experiment at all.
                if (directory / META).exists():
                    self._bad(directory, "its name is no id of an experiment", "experiment")
                continue
            try:
                meta = yaml_of(directory / META)
                if str(meta.get("experiment_id", directory.name)) != directory.name:
                    raise BadError(f"it says that it is of the experiment {meta.get('experiment_id')}")
                if not isinstance(meta.get("name"), str):
                    raise BadError("it has no name")
            except BadError as error:
                runs = sum(folder.name not in RESERVED for folder in folders(directory))
                self._bad(directory / META, f"{error}; {runs} runs go with it" if runs else error, "experiment")
                continue
            yield self._experiment(directory, meta)

    def _experiment(self, directory: Path, meta: dict[str, Any]) -> Experiment:
        def rows() -> Iterator[tuple[str, Row]]:
            yield (
                "experiments",
                {
                    "experiment_id": directory.name,
                    "name": meta["name"],
                    "artifact_location": meta.get("artifact_location"),
                    "lifecycle_stage": meta.get("lifecycle_stage", "active"),
                    "creation_time": meta.get("creation_time"),
                    "last_update_time": meta.get("last_update_time"),
                },
            )
            for key, value in self._values(directory / "tags", "tag"):
                yield "experiment_tags", {"key": key, "value": value, "experiment_id": directory.name}
            for path in folders(directory / "datasets"):
                try:
                    dataset = yaml_of(path / META)
                except BadError as error:
                    self._bad(path / META, error, "dataset")
                    continue
                yield (
                    "datasets",
                    {
                        "dataset_uuid": self._dataset(directory, path.name),
                        "experiment_id": directory.name,
                        "name": dataset.get("name"),
                        "digest": dataset.get("digest"),
                        "dataset_source_type": dataset.get("source_type"),
                        "dataset_source": dataset.get("source"),
                        "dataset_schema": dataset.get("schema"),
                        "dataset_profile": dataset.get("profile"),
                    },
                )

        return Experiment(
            directory.name,
            meta["name"],
            self._name(directory),
            str(meta.get("artifact_location") or ""),
            rows,
            lambda: self._parts(directory),
            is_deleted=meta.get("lifecycle_stage") == "deleted",
        )

    @staticmethod
    def _dataset(experiment: Path, name: str) -> str:
        # The file store has no ids like the database's.
        return uuid.uuid5(uuid.NAMESPACE_URL, f"mlflow-dataset:{experiment.name}/{name}").hex

    def _values(self, directory: Path, kind: str) -> Iterator[tuple[str, str]]:
        """Return name and content of files that hold one value each."""
        for name, path in files(directory):
            try:
                if fault := name_fault(kind, name):
                    raise BadError(fault)
                yield name, text_of(path)
            except BadError as error:
                self._bad(path, error, "file")

    def _parts(self, experiment: Path) -> Iterator[Part]:
        for directory in folders(experiment):
            if directory.name not in RESERVED:
                yield from self._part(directory, "run", META, self._run)
        for directory in folders(experiment / MODELS):
            # The metrics that a run of another experiment logged for a model lie beside it in a directory without one.
            yield from self._part(directory, "model", META, self._model)
        for directory in folders(experiment / "traces"):
            yield from self._part(directory, "trace", "trace_info.yaml", self._trace)

    def _part(
        self, directory: Path, kind: str, file: str, read: Callable[[Path, dict[str, Any]], Part]
    ) -> Iterator[Part]:
        try:
            meta = yaml_of(directory / file)
        except BadError as error:
            self._bad(directory / file, error, kind)
            return
        try:
            yield read(directory, meta)
        except (BadError, KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, BadError) else f"it is malformed: {error!r}"
            self._bad(directory / file, reason, kind)

    def _artifacts(self, directory: Path, location: str) -> str | None:
        """Return where the artifacts are: in their place in the tree, or elsewhere if it says so."""
        own = directory / "artifacts"
        if own.is_dir():
            return str(own)
        return self.places.find(location, least=2) if location else None

    def _run(self, directory: Path, meta: dict[str, Any]) -> Part:
        key = directory.name
        if (meta.get("run_id") or meta.get("run_uuid")) != key:
            raise BadError(f"it says that it is of the run {meta.get('run_id') or meta.get('run_uuid')}")
        if fault := name_fault("run", key):
            raise BadError(fault)
        location = str(meta.get("artifact_uri") or "")
        experiment = directory.parent

        def rows() -> Iterator[tuple[str, Row]]:
            yield "runs", self._run_row(directory, meta)
            for table, kind in (("params", "param"), ("tags", "tag")):
                for name, value in self._values(directory / table, kind):
                    yield table, {"key": name, "value": value, "run_uuid": key}
            for folder in ("inputs", "outputs"):
                for path in folders(directory / folder):
                    try:
                        yield from self._edge(experiment, key, folder, path)
                    except BadError as error:
                        self._bad(path / META, error, "file")

        return Part(
            "run",
            key,
            self._name(directory),
            rows,
            lambda: self._points(directory / "metrics"),
            location,
            self._found(directory, location, self._missing_artifacts(directory)),
        )

    @staticmethod
    def _missing_artifacts(run: Path) -> str:
        """Return what is wrong if a run has no directory of artifacts, or nothing if it needs none.

        Version control keeps no empty directories, so a run without artifacts often has none.
        """
        for tag in (MODELS_TAG, TABLES_TAG):
            path = run / "tags" / tag
            if path.is_file() and names_artifacts(tag, path.read_text(errors="replace")):
                return f"its directory of artifacts is missing, and its tag {tag} names some"
        return ""

    def _found(self, directory: Path, location: str, missing: str) -> str | None:
        try:
            found = self._artifacts(directory, location)
            if found is None and missing:
                raise BadError(missing)
            return found
        except BadError as error:
            self._bad(directory / "artifacts", error, "artifacts")
            return None

    def _run_row(self, directory: Path, meta: dict[str, Any]) -> Row:
        from mlflow.entities import RunStatus

        status = meta.get("status") or RunStatus.RUNNING
        try:
            status = RunStatus.to_string(status) if isinstance(status, int) else status
        except Exception as error:
            raise BadError(f"there is no status {status!r}") from error
        name = meta.get("run_name") or meta.get("name")
        if not name and (directory / "tags" / "mlflow.runName").is_file():
            name = text_of(directory / "tags" / "mlflow.runName")
        return {
            "run_uuid": directory.name,
            "name": name,
            # The file store has what follows in tags.
            "source_type": "LOCAL",
            "source_name": "",
            "entry_point_name": "",
            "source_version": "",
            "user_id": meta.get("user_id") or self._user(directory),
            "status": status,
            "start_time": meta.get("start_time"),
            "end_time": meta.get("end_time"),
            "deleted_time": meta.get("deleted_time"),
            "lifecycle_stage": meta.get("lifecycle_stage", "active"),
            "artifact_uri": meta.get("artifact_uri"),
            "experiment_id": directory.parent.name,
        }

    @staticmethod
    def _user(directory: Path) -> str | None:
        """Return the user whom a run's tag names."""
        path = directory / "tags" / "mlflow.user"
        # If the file cannot be read, the tag is malformed and not the run.
        with contextlib.suppress(BadError):
            return text_of(path) if path.is_file() else None
        return None

    def _edge(self, experiment: Path, run: str, folder: str, path: Path) -> Iterator[tuple[str, Row]]:
        """Return the rows of an input or output of a run."""
        meta = yaml_of(path / META)
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"mlflow-{folder}:{run}/{path.name}").hex
        row: Row = {"input_uuid": identity, "source_id": run, "step": 0}
        if folder == "outputs":
            row |= {"source_type": "RUN_OUTPUT", "destination_type": "MODEL_OUTPUT", "destination_id": path.name}
            row["step"] = meta.get("step") or 0
        elif meta.get("source_type") == "MODEL":
            row |= {"source_type": "RUN_INPUT", "destination_type": "MODEL_INPUT"}
            row["destination_id"] = meta.get("source_id")
        elif meta.get("source_type") == "DATASET":
            name = str(meta.get("source_id"))
            try:
                yaml_of(experiment / "datasets" / name / META)
            except BadError as error:
                raise BadError(f"it names the dataset {name}, which is not to be had") from error
            row |= {"source_type": "DATASET", "source_id": self._dataset(experiment, name)}
            row |= {"destination_type": "RUN", "destination_id": run}
        else:
            raise BadError(f"there is no input of the type {meta.get('source_type')!r}")
        yield "inputs", row
        tags = meta.get("tags") or {}
        if not isinstance(tags, dict):
            raise BadError("its tags are no mapping")
        for name, value in tags.items():
            yield "input_tags", {"input_uuid": identity, "name": str(name), "value": str(value)}

    def _lines(self, path: Path, name: str) -> Iterator[tuple[int, list[bytes]]]:
        """Return the fields of each line of a file of metrics, with its number."""
        if fault := name_fault("metric", name):
            self._bad(path, fault, "file")
            return
        number = 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        self.note(Bad(f"{self._name(path)}:{number}", "the line is cut off", "line"))
                        return
                    yield number, line.split()
        except OSError as error:
            self._bad(path, f"it cannot be read: {error.strerror}", "file")
            return
        if number == 0:
            self._bad(path, "it is empty", "file")

    def _points(self, directory: Path) -> Iterator[Point]:
        for name, path in files(directory):
            for number, fields in self._lines(path, name):
                try:
                    if len(fields) not in {2, 3} and len(fields) < 5:
                        raise ValueError(f"it has {len(fields)} fields")
                    timestamp, value, step, is_nan = point_of(fields)
                except ValueError as error:
                    reason = f"the line is malformed: {' '.join(str(error).split())}"
                    self.note(Bad(f"{self._name(path)}:{number}", reason, "line"))
                    continue
                yield name, value, timestamp, step, is_nan

    def _model(self, directory: Path, meta: dict[str, Any]) -> Part:
        from mlflow.entities.logged_model_status import LoggedModelStatus

        key, experiment = directory.name, directory.parents[1].name
        if meta.get("model_id") != key:
            raise BadError(f"it says that it is of the model {meta.get('model_id')}")
        status = meta.get("status", 1)
        row = {
            "model_id": key,
            "experiment_id": experiment,
            "name": meta.get("name"),
            "artifact_location": meta.get("artifact_location"),
            "creation_timestamp_ms": meta.get("creation_timestamp"),
            "last_updated_timestamp_ms": meta.get("last_updated_timestamp"),
            "status": LoggedModelStatus(status).to_int() if isinstance(status, str) else status,
            "lifecycle_stage": meta.get("lifecycle_stage", "active"),
            "model_type": meta.get("model_type"),
            "source_run_id": meta.get("source_run_id"),
            "status_message": meta.get("status_message"),
        }

        def rows() -> Iterator[tuple[str, Row]]:
            yield "logged_models", row
            for folder, kind in (("params", "param"), ("tags", "tag")):
                for name, value in self._values(directory / folder, kind):
                    own = {f"{kind}_key": name, f"{kind}_value": value}
                    yield f"logged_model_{folder}", own | {"model_id": key, "experiment_id": experiment}
            yield from self._model_metrics(directory, key, experiment)

        location = str(meta.get("artifact_location") or "")
        return Part(
            "model",
            key,
            self._name(directory),
            rows,
            location=location,
            directory=self._found(directory, location, missing=""),
        )

    def _model_metrics(self, directory: Path, key: str, experiment: str) -> Iterator[tuple[str, Row]]:
        for name, path in files(directory / "metrics"):
            # The database has one value for each of these, and MLflow the last one logged.
            found: dict[tuple[int, int, str], Row] = {}
            for number, fields in self._lines(path, name):
                try:
                    if len(fields) not in {4, 6}:
                        raise ValueError(f"it has {len(fields)} fields")
                    timestamp, value, step, _ = point_of(fields[:3])
                    run, *dataset = (each.decode() for each in fields[3:])
                except ValueError as error:
                    reason = f"the line is malformed: {' '.join(str(error).split())}"
                    self.note(Bad(f"{self._name(path)}:{number}", reason, "line"))
                    continue
                found[timestamp, step, run] = {
                    "model_id": key,
                    "metric_name": name,
                    "metric_timestamp_ms": timestamp,
                    "metric_step": step,
                    "metric_value": value,
                    "experiment_id": experiment,
                    "run_id": run,
                    "dataset_uuid": None,
                    "dataset_name": dataset[0] if dataset else None,
                    "dataset_digest": dataset[1] if dataset else None,
                }
            for row in found.values():
                yield "logged_model_metrics", row

    def _trace(self, directory: Path, meta: dict[str, Any]) -> Part:
        from mlflow.entities import TraceInfo
        from mlflow.store.tracking.utils.trace_analytics import (
            PROMOTED_TRACE_METADATA_KEYS,
            analytics_columns_from_metadata,
        )
        from mlflow.tracing.constant import TraceTagKey
        from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION

        try:
            info = TraceInfo.from_dict(meta)
        except Exception as error:
            raise BadError(f"it is no trace: {' '.join(str(error).split())}") from error
        key, experiment = directory.name, directory.parents[1].name
        if info.trace_id != key:
            raise BadError(f"it says that it is of the trace {info.trace_id}")
        location = directory / "tags" / MLFLOW_ARTIFACT_LOCATION

        def rows() -> Iterator[tuple[str, Row]]:
            tags = dict(self._values(directory / "tags", "tag"))
            metadata = dict(self._values(directory / "request_metadata", "tag"))
            yield (
                "trace_info",
                {
                    "request_id": key,
                    "experiment_id": experiment,
                    "timestamp_ms": info.request_time,
                    "execution_time_ms": info.execution_duration,
                    "status": info.state.value,
                    "client_request_id": info.client_request_id,
                    "request_preview": info.request_preview,
                    "response_preview": info.response_preview,
                    "trace_name": tags.pop(TraceTagKey.TRACE_NAME, None),
                    "db_payload_generation": 0,
                    **analytics_columns_from_metadata(metadata),
                },
            )
            for name, value in tags.items():
                yield "trace_tags", {"key": name, "value": value, "request_id": key}
            for name, value in metadata.items():
                if name not in PROMOTED_TRACE_METADATA_KEYS:
                    yield "trace_request_metadata", {"key": name, "value": value, "request_id": key}
            for name, path in files(directory / "assessments"):
                try:
                    yield "assessments", self._assessment(path, name, key, experiment, info.request_time)
                except BadError as error:
                    self._bad(path, error, "file")

        where = text_of(location) if location.is_file() else ""
        return Part(
            "trace",
            key,
            self._name(directory),
            rows,
            location=where,
            directory=self._found(directory, where, missing=""),
        )

    @staticmethod
    def _assessment(path: Path, name: str, trace: str, experiment: str, timestamp: int) -> Row:
        from mlflow.entities import Assessment
        from mlflow.store.tracking.dbmodels.models import SqlAssessments

        try:
            found = SqlAssessments.from_mlflow_entity(Assessment.from_dictionary(yaml_of(path)))
        except BadError:
            raise
        except Exception as error:
            raise BadError(f"it is no assessment: {' '.join(str(error).split())}") from error
        if found.assessment_id != name.removesuffix(".yaml"):
            raise BadError(f"it says that it is the assessment {found.assessment_id}")
        row = {column.name: getattr(found, column.name) for column in SqlAssessments.__table__.columns}
        return row | {"trace_id": trace, "experiment_id": experiment, "trace_timestamp_ms": timestamp}

    def registry(self) -> Iterator[Part]:
        """Return the registered models."""
        for directory in folders(self.root / MODELS):
            yield from self._part(directory, "registered_model", META, self._registered)

    def _registered(self, directory: Path, meta: dict[str, Any]) -> Part:
        name = meta.get("name")
        if not isinstance(name, str) or name != directory.name:
            raise BadError(f"it says that it is of the model {name}")

        def rows() -> Iterator[tuple[str, Row]]:
            yield (
                "registered_models",
                {
                    "name": name,
                    "creation_time": meta.get("creation_timestamp"),
                    "last_updated_time": meta.get("last_updated_timestamp"),
                    "description": meta.get("description"),
                },
            )
            for key, value in self._values(directory / "tags", "tag"):
                yield "registered_model_tags", {"name": name, "key": key, "value": value}
            there = set()
            versions = [path for path in folders(directory) if path.name.startswith("version-")]
            for path in sorted(versions, key=lambda path: (len(path.name), path.name)):
                try:
                    row = self._version(path, name)
                except (BadError, TypeError, ValueError) as error:
                    self._bad(path / META, error, "version")
                    continue
                there.add(row["version"])
                yield "model_versions", row
                for key, value in self._values(path / "tags", "tag"):
                    own = {"name": name, "version": row["version"], "key": key, "value": value}
                    yield "model_version_tags", own
            for alias, text in self._values(directory / "aliases", "alias"):
                if not text.strip().isdecimal() or int(text) not in there:
                    self._bad(directory / "aliases" / alias, "it names no version that is there", "file")
                    continue
                yield "registered_model_aliases", {"name": name, "alias": alias, "version": int(text)}

        return Part("registered_model", name, self._name(directory), rows)

    @staticmethod
    def _version(path: Path, name: str) -> Row:
        meta = yaml_of(path / META)
        version = int(meta.get("version", 0))
        if path.name != f"version-{version}":
            raise BadError(f"it says that it is of version {meta.get('version')}")
        names = ["description", "user_id", "source", "storage_location", "run_id", "run_link", "status_message"]
        # What the file store keeps as null, and an empty text that means the same.
        row: Row = {each: meta.get(each) for each in names}
        return row | {
            "name": name,
            "version": version,
            "creation_time": meta.get("creation_timestamp"),
            "last_updated_time": meta.get("last_updated_timestamp"),
            "current_stage": meta.get("current_stage") or "None",
            "status": meta.get("status") or "READY",
        }

    def left(self) -> dict[str, int]:
        """Count what is not imported: the file store has nothing of the kind."""
        return {}


def names_artifacts(tag: str, text: str) -> bool:
    """Return whether a tag names artifacts of its own run.

    Args:
        tag: The tag.
        text: Its value: JSON lists of `{"artifact_path": …}` for models, and of `{"path": …}` for tables.
    """
    entries = models_of(text)
    if tag == TABLES_TAG:
        return bool(entries)
    # A model with an id of its own (MLflow 3) is outside of the run, by an address.
    return any(not re.match(r"/|[a-z]+:", str(entry.get("artifact_path", "/"))) for entry in entries)


def models_of(text: str) -> list[dict[str, Any]]:
    """Return the entries of a tag that is a list of them, as mlflow.log-model.history; none if it is not MLflow's."""
    try:
        found = json.loads(text)
    except ValueError:
        return []
    whole = isinstance(found, list) and all(isinstance(entry, dict) for entry in found)
    return found if whole else []
