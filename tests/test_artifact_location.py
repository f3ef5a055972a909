"""The filter that takes the URI of an artifact store apart."""

import pytest

from plugins.filter.artifact_store import location


@pytest.mark.parametrize(
    ("uri", "provider", "bucket", "account", "prefix"),
    [
        ("/var/lib/mlflow/artifacts", "local", "", "", ""),
        ("/", "local", "", "", ""),
        ("s3://example-mlflow", "s3", "example-mlflow", "", ""),
        ("s3://example.mlflow/site-a/artifacts", "s3", "example.mlflow", "", "site-a/artifacts"),
        ("wasbs://artifacts@example.blob.core.windows.net", "azure", "artifacts", "example", ""),
        ("wasbs://a-1@example1.blob.core.windows.net/x", "azure", "a-1", "example1", "x"),
        ("gs://example_mlflow/a.b/c_d", "gcs", "example_mlflow", "", "a.b/c_d"),
    ],
)
def test_a_uri_is_taken_apart(uri: str, provider: str, bucket: str, account: str, prefix: str) -> None:
    found = {"provider": provider, "bucket": bucket, "account": account, "prefix": prefix, "problem": ""}
    assert location(uri) == found


@pytest.mark.parametrize(
    "uri",
    [
        None,
        7,
        "",
        "relative/directory",
        "//host/share",
        "/a b",
        "s3:/example",
        "S3://example",
        "s3://",
        "s3://exam_ple",
        "s3://-example",
        "s3://a..b",
        f"s3://{'a' * 64}",
        "s3://example\n",
        "s3://example/a/../b",
        "s3://example/.hidden",
        f"s3://example/{'a' * 129}",
        "s3://key:secret@example",
        "wasbs://artifacts@example.blob.core.chinacloudapi.cn",
        "wasbs://artifacts@example",
        "wasbs://-a@example.blob.core.windows.net",
        "wasbs://ab@example.blob.core.windows.net",
        "gs://goog-example",
        "gs://example.",
        f"gs://{'a' * 64}",
    ],
)
def test_anything_else_has_a_problem(uri: object) -> None:
    assert location(uri)["problem"]
