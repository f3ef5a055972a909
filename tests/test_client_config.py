"""What a training job is configured to do by its environment and .env files, and what it is told if they are wrong."""

import logging
import os
from pathlib import Path

import mlflow
import pytest
import trustme

from mlflow_site import ConfigError, LostWritesError, get_mlflow_config, outages, require_all_logged, targets
from mlflow_site.__main__ import main
from tests.client import SOURCE

SERVER = "https://mlflow.example.com"
SECRET = "hunter2-and-more"  # what must be in no message
ARN = "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/team"


def production(**variables: str) -> None:
    """Set variables of a job that uses the server."""
    os.environ.update({"MLFLOW_ENV": "production", "MLFLOW_TRACKING_URI": SERVER, **variables})


def write(name: str, *lines: str) -> None:
    Path(name).write_text("\n".join(lines) + "\n")


def refused() -> str:
    """Return the sentence by which the configuration is refused."""
    with pytest.raises(ConfigError) as error:
        get_mlflow_config()
    sentence = str(error.value)
    assert SECRET not in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_without_anything_runs_are_kept_here(job: Path) -> None:
    config = get_mlflow_config()
    assert (config["environment"], config["tracking_uri"]) == ("development", "sqlite:///mlflow.db")
    assert (config["credentials"], config["ca"], config["settings"], config["warnings"]) == ("none", "none", {}, [])
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mlflow.db"


def test_runs_that_are_in_mlruns_stay_in_sight(job: Path) -> None:
    (job / "mlruns" / "0").mkdir(parents=True)
    (job / "mlruns" / "0" / "meta.yaml").touch()
    config = get_mlflow_config()
    assert config["tracking_uri"] == "mlruns"
    assert "Runs are kept in the folder mlruns" in config["warnings"][0]
    # MLflow raises an exception for a folder otherwise.
    client = mlflow.MlflowClient(config["tracking_uri"])
    run = client.create_run(client.create_experiment("new"))
    assert (job / "mlruns" / run.info.experiment_id / run.info.run_id / "meta.yaml").exists()


def test_folder_that_the_user_forbids_is_rejected_with_two_ways_out(job: Path) -> None:
    os.environ.update(MLFLOW_TRACKING_URI="./mlruns", MLFLOW_ALLOW_FILE_STORE="false")
    sentence = refused()
    assert "docs/import.md" in sentence
    assert "sqlite:///mlflow.db" in sentence


@pytest.mark.parametrize(
    "uri", ["mlflow.example.com", "mlflow.example.com/", "mlflow.example.com:8443", "localhost:5000", "mlflow:5000/x"]
)
def test_address_without_its_scheme_is_rejected(job: Path, uri: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert "has no https:// at its start" in refused()


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns.old", "runs/2024.1", "/data/mlruns.old", "runs.old"])
def test_folder_is_a_local_store(job: Path, uri: str) -> None:
    (job / "runs.old").mkdir()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert get_mlflow_config()["target"] == "local"


def test_production_is_the_server(job: Path) -> None:
    production(MLFLOW_TRACKING_USERNAME="alice", MLFLOW_TRACKING_PASSWORD=SECRET)
    config = get_mlflow_config()
    assert (config["target"], config["tracking_uri"], config["ca"]) == ("server", SERVER, "certifi")
    assert config["credentials"] == "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment"
    assert SECRET not in str(config)


def test_the_address_tells_the_environment_if_nothing_else_does(job: Path) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = SERVER + "/"
    config = get_mlflow_config()
    assert (config["environment"], config["tracking_uri"]) == ("production", SERVER)
    assert os.environ["MLFLOW_ENV"] == "production"


def test_development_stays_here_though_a_server_is_named(job: Path) -> None:
    os.environ.update(MLFLOW_ENV="development", MLFLOW_TRACKING_URI=SERVER)
    config = get_mlflow_config()
    assert config["tracking_uri"] == os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///mlflow.db"
    assert "MLFLOW_ENV=production" in config["warnings"][0]


def test_the_environment_wins_over_the_files_and_the_nearer_file_over_the_other(job: Path) -> None:
    write(".env", "MLFLOW_ENV=production", "MLFLOW_TRACKING_URI=https://last", "MLFLOW_TRACKING_TOKEN=last", "OF_ALL=3")
    write(".env.production", f"MLFLOW_TRACKING_URI={SERVER}", "MLFLOW_TRACKING_TOKEN=middle", "OF_ONE='two words'")
    write(".env.development", "MLFLOW_TRACKING_URI=file:///elsewhere")
    os.environ["MLFLOW_TRACKING_TOKEN"] = "first"
    config = get_mlflow_config()
    assert config["tracking_uri"] == SERVER
    assert config["credentials"] == "MLFLOW_TRACKING_TOKEN of the environment"
    found = [os.environ[name] for name in ("MLFLOW_TRACKING_TOKEN", "OF_ONE", "OF_ALL")]
    assert found == ["first", "two words", "3"]


def test_the_files_are_found_from_a_folder_below(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(".env.production", f"MLFLOW_TRACKING_URI={SERVER}", "MLFLOW_TRACKING_TOKEN=t")
    (job / "notebooks").mkdir()
    monkeypatch.chdir(job / "notebooks")
    os.environ["MLFLOW_ENV"] = "production"
    assert get_mlflow_config()["credentials"] == "MLFLOW_TRACKING_TOKEN of .env.production"


def test_a_directory_can_be_named(job: Path, tmp_path: Path) -> None:
    write(str(tmp_path / ".env"), "MLFLOW_ENV=production", f"MLFLOW_TRACKING_URI={SERVER}")
    assert get_mlflow_config(tmp_path)["tracking_uri"] == SERVER


def test_what_is_set_to_nothing_is_not_set(job: Path) -> None:
    # To MLflow, this one would be: to verify no certificate at all.
    production(MLFLOW_TRACKING_SERVER_CERT_PATH="", MLFLOW_TRACKING_TOKEN=" ")
    write(".env", "MLFLOW_TRACKING_TOKEN=of-the-file")
    config = get_mlflow_config()
    assert (config["ca"], config["credentials"]) == ("certifi", "MLFLOW_TRACKING_TOKEN of .env")
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" not in os.environ
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "of-the-file"


def test_a_line_break_at_the_end_of_a_secret_of_ci_is_not_part_of_it(job: Path) -> None:
    production(MLFLOW_TRACKING_URI=f"{SERVER}\n", MLFLOW_TRACKING_TOKEN="token\n")
    assert get_mlflow_config()["tracking_uri"] == SERVER
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "token"


@pytest.mark.parametrize("name", ["MLFLOW_S3_BUCKET", "MLFLOW_DB_URI", "BACKEND_STORE_URI", "ARTIFACT_ROOT"])
def test_what_is_the_servers_is_explained(job: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    production(**{name: f"postgresql://mlflow:{SECRET}@host:5432/mlflow"})
    config = get_mlflow_config()
    assert [warning for warning in config["warnings"] if warning.startswith(f"{name} is not used: ")]
    assert name in caplog.text
    assert SECRET not in caplog.text + str(config)


def test_locally_they_are_not_spoken_of(job: Path) -> None:
    os.environ.update(MLFLOW_ENV="development", MLFLOW_S3_BUCKET="s3://bucket")
    assert get_mlflow_config()["warnings"] == []


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "MLFLOW_TRACKING_URI is not set"),
        ("sqlite:///mlflow.db", "a store on this machine"),
        ("mlflow.example.com", "has no https:// at its start"),
        ("./mlruns", "a store on this machine"),
        (f"alice:{SECRET}@mlflow.example.com", "has no https:// at its start"),
        (f"https://alice:{SECRET}@mlflow.example.com", "holds a login"),
        (f"postgresql://mlflow:{SECRET}@host/mlflow", "the address of a database"),
        (f"mysql+pymysql://mlflow:{SECRET}@host/mlflow", "the address of a database"),
        ("https://mlflow.example.com/#/experiments/1", "a page of the user interface"),
        ("https://", "no usable host"),
        ("https://host:99999", "no usable host"),
        ("https://my host", "no usable host"),
        ("ftp://host", "starts with 'ftp://'"),
        ("databricks//profile", "databricks or databricks://<profile>"),
        ("arn:aws:sagemaker:eu-west-1:12:mlflow-tracking-server/x", "mlflow-tracking-server/<name>"),
    ],
)
def test_a_wrong_address_is_refused(job: Path, uri: str, says: str) -> None:
    production(MLFLOW_TRACKING_URI=uri)
    sentence = refused()
    assert sentence.startswith("MLFLOW_TRACKING_URI ")
    assert says in sentence


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"MLFLOW_ENV": "prod"}, "MLFLOW_ENV is 'prod'; it takes development or production."),
        ({"MLFLOW_TRACKING_USERNAME": "alice"}, "MLFLOW_TRACKING_PASSWORD is not set, but MLFLOW_TRACKING_USERNAME is"),
        ({"MLFLOW_TRACKING_PASSWORD": SECRET}, "MLFLOW_TRACKING_USERNAME is not set, but MLFLOW_TRACKING_PASSWORD is"),
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/absent.crt"}, "names /absent.crt, which is not there"),
        ({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "20"}, "is '20'; MLflow takes a whole number from 0 to 10."),
        ({"MLFLOW_HTTP_REQUEST_TIMEOUT": "2m"}, "is '2m'; MLflow takes a whole number from 1 to 86400."),
    ],
)
def test_a_wrong_value_is_refused(job: Path, variables: dict[str, str], says: str) -> None:
    production(**variables)
    assert says in refused()


def test_nothing_is_set_by_a_configuration_that_is_refused(job: Path) -> None:
    production(MLFLOW_HTTP_REQUEST_TIMEOUT="2m")
    write(".env", "OF_THE_FILE=1")
    refused()
    assert "OF_THE_FILE" not in os.environ
    assert "MLFLOW_ENABLE_ASYNC_LOGGING" not in os.environ


def test_a_file_without_a_certificate_is_refused(job: Path) -> None:
    write("ca.crt", SECRET)
    production(MLFLOW_TRACKING_SERVER_CERT_PATH="ca.crt")
    assert f"names {job / 'ca.crt'}, which holds no certificate" in refused()


def test_a_file_with_a_certificate_is_taken(job: Path) -> None:
    trustme.CA().cert_pem.write_to_path("ca.crt")
    production(MLFLOW_TRACKING_SERVER_CERT_PATH="ca.crt")
    assert get_mlflow_config()["ca"] == "ca.crt"
    os.environ["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
    assert "both set" in refused()


def test_a_connection_that_others_can_read_is_spoken_of(job: Path) -> None:
    production(MLFLOW_TRACKING_INSECURE_TLS="true")
    config = get_mlflow_config()
    assert config["ca"] == "none"
    assert "can read the password" in config["warnings"][0]
    production(MLFLOW_TRACKING_URI="http://mlflow.example.com")
    assert "plain text" in get_mlflow_config()["warnings"][0]


def test_a_forwarded_port_is_no_risk(job: Path) -> None:
    production(MLFLOW_TRACKING_URI="http://localhost:5000")
    config = get_mlflow_config()
    assert (config["environment"], config["target"], config["warnings"]) == ("production", "server", [])


def test_a_login_can_be_in_the_file_that_mlflow_reads(job: Path) -> None:
    file = Path.home() / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text(f"[mlflow]\nmlflow_tracking_username = alice\nmlflow_tracking_password = {SECRET}%\n")
    production()
    assert get_mlflow_config()["credentials"].endswith(" of ~/.mlflow/credentials")


def test_a_login_of_netrc_wins_and_is_spoken_of(job: Path) -> None:
    file = Path.home() / ".netrc"
    file.write_text(f"machine mlflow.example.com login bob password {SECRET}\n")
    file.chmod(0o600)
    production(MLFLOW_TRACKING_USERNAME="alice", MLFLOW_TRACKING_PASSWORD=SECRET)
    config = get_mlflow_config()
    assert config["credentials"] == "the netrc file's entry for mlflow.example.com"
    assert "wins over" in config["warnings"][0]


def test_outages_are_prepared_for_and_what_the_user_has_set_stays(job: Path) -> None:
    production(MLFLOW_HTTP_REQUEST_MAX_RETRIES="3")
    write(".env.production", "MLFLOW_HTTP_REQUEST_TIMEOUT=7")
    config = get_mlflow_config()
    assert config["settings"] == {
        **outages.DEFAULTS,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
    }
    assert {name: os.environ[name] for name in config["settings"]} == config["settings"]


def test_mlflow_takes_the_defaults(job: Path) -> None:
    from mlflow import environment_variables as of_mlflow
    from mlflow.utils import rest_utils

    production()
    get_mlflow_config()
    assert of_mlflow.MLFLOW_ENABLE_ASYNC_LOGGING.get() is True
    assert of_mlflow.MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE.get() == 1
    assert of_mlflow.MLFLOW_HTTP_REQUEST_BACKOFF_JITTER.get() == 2
    assert of_mlflow.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 300
    rest_utils._validate_max_retries(of_mlflow.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())
    rest_utils._validate_backoff_factor(of_mlflow.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get())


@pytest.mark.parametrize(
    ("uri", "tracking", "registry"),
    [
        ("databricks", "databricks", ""),
        ("databricks://team", "databricks://team", ""),
        ("databricks-uc", "databricks", "databricks-uc"),
        ("databricks-uc://team", "databricks://team", "databricks-uc://team"),
    ],
)
def test_databricks_is_a_target(job: Path, uri: str, tracking: str, registry: str) -> None:
    production(MLFLOW_TRACKING_URI=uri)
    config = get_mlflow_config()
    assert (config["target"], config["tracking_uri"], config["registry_uri"]) == ("databricks", tracking, registry)
    assert os.environ.get("MLFLOW_REGISTRY_URI", "") == registry
    assert config["settings"] == outages.DEFAULTS


def test_the_login_of_databricks_is_told(job: Path) -> None:
    production(MLFLOW_TRACKING_URI="databricks", DATABRICKS_HOST="https://dbc.example.com", DATABRICKS_TOKEN=SECRET)
    assert get_mlflow_config()["credentials"] == "DATABRICKS_HOST and DATABRICKS_TOKEN of the environment"
    production(MLFLOW_TRACKING_URI="databricks://team")
    assert get_mlflow_config()["credentials"] == "the profile team of ~/.databrickscfg"


def test_databricks_takes_its_sdk(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_is_installed", lambda module: module != "databricks.sdk")
    production(MLFLOW_TRACKING_URI="databricks")
    assert refused().endswith("which takes the package databricks-sdk: pip install databricks-sdk.")


def test_sagemaker_takes_its_plugin(job: Path) -> None:
    production(MLFLOW_TRACKING_URI=ARN)
    assert refused().endswith("which takes the package sagemaker-mlflow: pip install sagemaker-mlflow.")


def test_sagemaker_is_a_target(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As an installed plugin says of itself what it brings.
    plugin = tmp_path / "sagemaker_mlflow-1.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: sagemaker-mlflow\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text("[mlflow.tracking_store]\narn = sagemaker_mlflow.store:Store\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    production(MLFLOW_TRACKING_URI=ARN)
    config = get_mlflow_config()
    assert (config["target"], config["credentials"]) == ("sagemaker", "the AWS identity of this process")


def test_what_is_lost_is_noticed(job: Path) -> None:
    import mlflow

    get_mlflow_config()
    with mlflow.start_run():
        mlflow.log_metric("loss", 1, synchronous=False)
    require_all_logged()
    mlflow.MlflowClient().log_batch("0" * 32, [mlflow.entities.Metric("loss", 1, 0, 0)], synchronous=False)
    mlflow.flush_async_logging()
    with pytest.raises(LostWritesError, match="1 writes did not reach the server"):
        require_all_logged()
    # What was told once is not told of the next run.
    require_all_logged()


def test_a_refusal_of_the_command_is_one_sentence(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    production(MLFLOW_TRACKING_URI=f"postgresql://mlflow:{SECRET}@host/mlflow")
    assert main([]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert SECRET not in shown.out + shown.err


def test_the_example_files_are_right(job: Path) -> None:
    get_mlflow_config(SOURCE)
    for name, environment in ((".env.development", "development"), (".env.production.example", "production")):
        Path(name.removesuffix(".example")).write_text((SOURCE / name).read_text())
        for variable in [variable for variable in os.environ if variable.startswith("MLFLOW_")]:
            del os.environ[variable]
        os.environ["MLFLOW_ENV"] = environment
        config = get_mlflow_config()
        assert (config["environment"], config["warnings"]) == (environment, [])
        assert config["target"] == ("server" if environment == "production" else "local")


def test_warnings_are_logged_as_such(job: Path, caplog: pytest.LogCaptureFixture) -> None:
    production(MLFLOW_S3_BUCKET="s3://bucket")
    with caplog.at_level(logging.WARNING, "mlflow_site"):
        get_mlflow_config()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
