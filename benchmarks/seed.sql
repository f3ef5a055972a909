-- Fills one experiment with runs, each with 10 metrics, 5 params and 3 tags. The same rows in every system.
-- Takes the variables name and runs.
SELECT setseed(0.5) \g /dev/null
INSERT INTO experiments (name, workspace, artifact_location, lifecycle_stage, creation_time, last_update_time)
VALUES (:'name', 'default', 'mlflow-artifacts:/' || :'name', 'active', 1750000000000, 1750000000000)
RETURNING experiment_id \gset

CREATE TEMPORARY TABLE seeded AS
SELECT number, md5(:'name' || number) AS id, random() AS value FROM generate_series(1, :runs) AS number;

INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                  source_version, lifecycle_stage, artifact_uri, experiment_id)
SELECT id, 'run-' || number, 'UNKNOWN', '', '', 'seed', 'FINISHED', 1750000000000 + number * 1000,
       1750000000000 + number * 1000 + 500, '', 'active', 'mlflow-artifacts:/' || :'name' || '/' || id || '/artifacts', :experiment_id
FROM seeded;

CREATE TEMPORARY TABLE points AS
SELECT 'm' || key AS key, (value * (key + 1)) - floor(value * (key + 1)) AS value, 1750000000000 + number AS timestamp, id
FROM seeded, generate_series(0, 9) AS key;
INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) SELECT key, value, timestamp, 0, false, id FROM points;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) SELECT key, value, timestamp, 0, false, id FROM points;
INSERT INTO params (key, value, run_uuid)
SELECT 'p' || key, 'v' || (number + key) % 10, id FROM seeded, generate_series(0, 4) AS key;
INSERT INTO tags (key, value, run_uuid)
SELECT tag.key, tag.value, id FROM seeded, LATERAL (VALUES ('mlflow.user', 'seed'), ('mlflow.source.type', 'LOCAL'),
                                                   ('mlflow.runName', 'run-' || number)) AS tag (key, value);
DROP TABLE seeded, points;
