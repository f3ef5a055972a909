-- Removes all that a benchmark has written, and adds what every one of them needs: 100 experiments, 100 models with 3
-- versions each, and a run with a metric of 10,000 points.
TRUNCATE runs CASCADE;
DELETE FROM experiment_tags WHERE experiment_id <> 0;
DELETE FROM experiments WHERE experiment_id <> 0;
TRUNCATE registered_models CASCADE;

INSERT INTO experiments (name, workspace, artifact_location, lifecycle_stage, creation_time, last_update_time)
SELECT 'listed-' || number, 'default', 'mlflow-artifacts:/listed-' || number, 'active', 1740000000000 + number, 1740000000000 + number
FROM generate_series(1, 100) AS number;

INSERT INTO registered_models (workspace, name, creation_time, last_updated_time, description)
SELECT 'default', 'model-' || number, 1750000000000, 1750000000000, '' FROM generate_series(1, 100) AS number;
INSERT INTO model_versions (workspace, name, version, creation_time, last_updated_time, description, current_stage, source, status)
SELECT 'default', 'model-' || number, version, 1750000000000, 1750000000000, '', 'None', 'mlflow-artifacts:/models', 'READY'
FROM generate_series(1, 100) AS number, generate_series(1, 3) AS version;

INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, source_version,
                  lifecycle_stage, artifact_uri, experiment_id)
VALUES (md5('history'), 'history', 'UNKNOWN', '', '', 'seed', 'RUNNING', 1750000000000, '', 'active',
        'mlflow-artifacts:/0/history/artifacts', 0);
INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT 'history', exp(-step / 2500.0), 1750000000000 + step, step, false, md5('history') FROM generate_series(1, 10000) AS step;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
VALUES ('history', exp(-4), 1750000010000, 10000, false, md5('history'));
