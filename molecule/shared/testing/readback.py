"""Read all that a team has logged by MLflow's own client, in a form in which two places that hold it can be compared.

What has to differ after an import is left out: ids of experiments, and where artifacts are.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, Trace, ViewType

Told = dict[str, Any]
# Says where artifacts are, or in which experiment something is.
PLACES = {"mlflow.artifactLocation", "mlflow.trace_schema.version", "_mlflow_experiment_ids"}
PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"
MANY = 1000


def client_of(uri: str) -> MlflowClient:
    """Return a client of a server, or of a source without one."""
    # What artifacts of traces are downloaded from, whatever the client.
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri, uri)


def kept(tags: dict[str, str]) -> dict[str, str]:
    """Return tags without those that say where something is."""
    return {key: value for key, value in tags.items() if key not in PLACES}


def run_of(client: MlflowClient, run: Run) -> Told:
    """Return all of a run."""
    history = {
        key: sorted(
            (point.step, point.timestamp, str(point.value)) for point in client.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }
    info = run.info
    return {
        "info": (info.run_name, info.user_id, info.status, info.start_time, info.end_time, info.lifecycle_stage),
        "params": run.data.params,
        "tags": kept(run.data.tags),
        "latest": {key: str(value) for key, value in run.data.metrics.items()},
        "metrics": history,
        "datasets": sorted(
            (
                each.dataset.name,
                each.dataset.digest,
                each.dataset.source_type,
                each.dataset.source,
                str(each.dataset.schema),
                str(each.dataset.profile),
                sorted((tag.key, tag.value) for tag in each.tags),
            )
            for each in (run.inputs.dataset_inputs if run.inputs else [])
        ),
        "outputs": sorted((each.model_id, each.step) for each in (run.outputs.model_outputs if run.outputs else [])),
    }


def trace_of(trace: Trace) -> Told:
    """Return all of a trace."""
    info = trace.info
    return {
        "info": (
            info.request_time,
            info.execution_duration,
            str(info.state),
            info.request_preview,
            info.response_preview,
        ),
        "tags": kept(info.tags),
        "spans": sorted(
            (span.name, str(span.span_type), str(span.inputs), str(span.outputs)) for span in trace.data.spans
        ),
        "assessments": sorted(
            (each.name, str(each.value), str(each.source), str(each.rationale), each.create_time_ms)
            for each in info.assessments
        ),
    }


def experiment_of(client: MlflowClient, experiment: Experiment) -> Told:
    """Return all of an experiment."""
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=MANY)
    active = experiment.lifecycle_stage == "active"
    models = client.search_logged_models([experiment.experiment_id]) if active else []
    traces = client.search_traces(locations=[experiment.experiment_id]) if active else []
    return {
        "stage": experiment.lifecycle_stage,
        "tags": kept(experiment.tags),
        "runs": {run.info.run_id: run_of(client, run) for run in runs},
        "models": {
            model.model_id: {
                "info": (model.name, str(model.status), model.source_run_id, model.model_type or ""),
                "params": model.params,
                "tags": kept(model.tags),
                "metrics": sorted((each.key, each.value, each.run_id) for each in model.metrics or []),
            }
            for model in models
        },
        "traces": {trace.info.trace_id: trace_of(trace) for trace in traces},
    }


def experiments(uri: str, beginning: str) -> Told:
    """Return all of the experiments whose names begin with something, by name."""
    client = client_of(uri)
    found = client.search_experiments(view_type=ViewType.ALL, filter_string=f"name LIKE '{beginning}%'")
    return {each.name: experiment_of(client, each) for each in found}


def registry(uri: str, beginning: str) -> Told:
    """Return the registered models and prompts whose names begin with something, by name."""
    client = client_of(uri)
    found = [*client.search_registered_models(), *client.search_registered_models(PROMPTS)]
    return {
        model.name: {
            "info": (model.description, kept(model.tags), model.aliases),
            "versions": {
                str(version.version): (version.current_stage, version.description, version.run_id, kept(version.tags))
                for version in client.search_model_versions(f"name = '{model.name}'")
            },
        }
        for model in found
        if model.name.startswith(beginning)
    }


def artifacts(uri: str, run_id: str) -> dict[str, str]:
    """Return the checksums of a run's artifacts by path, each of them downloaded."""
    client = client_of(uri)
    with tempfile.TemporaryDirectory() as directory:
        there = Path(client.download_artifacts(run_id, "", directory))
        files = [path for path in there.rglob("*") if path.is_file()]
        return {str(path.relative_to(there)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
