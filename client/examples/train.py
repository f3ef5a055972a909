"""Train a small model and log it: locally with MLFLOW_ENV=development, to the server with MLFLOW_ENV=production.

A logistic regression in plain Python, on patients that are made up: nothing to install beside MLflow.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time

import mlflow

from mlflow_site import get_mlflow_config, require_all_logged

FEATURES = ("age", "blood_pressure", "cholesterol")
TRUE_WEIGHTS = (1.5, 0.8, -1.1)
PATIENTS = 400

Patient = tuple[tuple[float, ...], int]


def patients(seed: int) -> list[Patient]:
    """Return made-up patients: features around zero, and whether they are ill."""
    chance = random.Random(seed)  # noqa: S311 - nothing is kept secret with it
    made = []
    for _ in range(PATIENTS):
        features = tuple(chance.gauss(0, 1) for _ in FEATURES)
        risk = sum(weight * value for weight, value in zip(TRUE_WEIGHTS, features, strict=True))
        made.append((features, int(chance.random() < 1 / (1 + math.exp(-risk)))))
    return made


def predict(weights: list[float], features: tuple[float, ...]) -> float:
    """Return the probability that a patient is ill."""
    return 1 / (1 + math.exp(-sum(weight * value for weight, value in zip(weights, features, strict=True))))


def train_epoch(weights: list[float], data: list[Patient], rate: float) -> dict[str, float]:
    """Change the weights by one pass over the data. Returns the metrics before it."""
    loss, right = 0.0, 0
    gradient = [0.0] * len(weights)
    for features, ill in data:
        probability = predict(weights, features)
        loss -= math.log(max(probability if ill else 1 - probability, 1e-12))
        right += (probability >= 0.5) == bool(ill)
        for index, value in enumerate(features):
            gradient[index] += (probability - ill) * value
    for index, slope in enumerate(gradient):
        weights[index] -= rate * slope / len(data)
    return {"loss": loss / len(data), "accuracy": right / len(data)}


def main() -> None:
    """Train, and log parameters, metrics of each epoch and the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=0.5)
    parser.add_argument(
        "--pause", type=float, default=0, help="seconds that an epoch takes longer, as a real one would"
    )
    options = parser.parse_args()

    config = get_mlflow_config()
    mlflow.set_tracking_uri(config["tracking_uri"])
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "heart-disease-prediction"))

    data, weights = patients(seed=1), [0.0] * len(FEATURES)
    with mlflow.start_run() as run:
        print(f"Run {run.info.run_id} at {config['tracking_uri']}", flush=True)
        mlflow.log_params({"epochs": options.epochs, "learning_rate": options.learning_rate, "patients": len(data)})
        for epoch in range(options.epochs):
            mlflow.log_metrics(train_epoch(weights, data, options.learning_rate), step=epoch)
            time.sleep(options.pause)
        mlflow.log_dict({"features": FEATURES, "weights": weights}, "model.json")
    # Once the run has ended, all of it is on the server, or this says what is not.
    require_all_logged()
    print(f"{options.epochs} epochs trained, logged and kept", flush=True)


if __name__ == "__main__":
    main()
