#!/usr/bin/python
"""Ansible module: secrets kept in AWS Systems Manager Parameter Store."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from plugins.module_utils import secret_store as base
    from plugins.module_utils.secret_store import main
else:
    from ansible.module_utils import secret_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.secret_store import main

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config

    MISSING = ""
except ImportError as missing:
    MISSING = missing.name or "boto3"

DOCUMENTATION = r"""
module: secret_store_aws_ssm
short_description: The store of secrets that is AWS Systems Manager Parameter Store
description:
  - Keeps each secret in a parameter of the type SecureString below a path. What the operations do is said in the action
    plugin C(secret_store), which calls this module.
  - The labels C(current), C(pending) and C(previous) tell the versions' stages. As long as no version is labelled
    C(current), the latest one is. C(pending) on the current version means that none is pending.
  - A version becomes current by the one call that moves the label.
  - The lock is the parameter C(lock) below the path, of the type String. Each record in it names the version that its
    writer had seen, and counts only if it is the next one; of two writers at once that is one.
  - Credentials come from boto3's usual chain; none is an option.
options:
  options:
    description: C(path), C(region), C(profile), C(endpoint) and C(kms_key).
    type: dict
    required: true
requirements: [boto3]
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Read the secrets
  secret_store:
    provider: aws_ssm
    options:
      path: /mlflow/production
      region: eu-central-1
    operation: read
    names:
      admin_password: {}
  register: __site_store
  no_log: true
"""

# A store that cannot be reached is given up after half a minute.
CONNECT_SECONDS = 5
READ_SECONDS = 6
ATTEMPTS = 4
PAUSE_SECONDS = 1.0
BATCH = 10  # https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html

# Codes: https://docs.aws.amazon.com/systems-manager/latest/APIReference/CommonErrors.html, and the operations' pages.
DENIED = {"AccessDenied", "AccessDeniedException", "NotAuthorized", "OptInRequired"}
THROTTLED = {"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"}
UNKNOWN_KEY = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidAccessKeyId",
    "MissingAuthenticationToken",
}
WRONG_KEY = {"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"}
EXPIRED = {"ExpiredTokenException", "ExpiredToken", "RequestExpired"}
BUSY = "TooManyUpdates"  # which botocore does not repeat by itself
EXISTS = "ParameterAlreadyExists"

HELP = "docs/secrets.md lists what each use of the store needs"


class Parameters(base.Store):
    """Secrets in Parameter Store, below a path."""

    PROVIDER = "aws_ssm"
    OPTIONS: ClassVar = {
        "path": base.Option(
            "the path of the parameters, such as /mlflow/production",
            r"/(?!aws|ssm)[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){0,12}",
            required=True,
        ),
        "region": base.Option("the name of an AWS region, such as eu-central-1", r"[a-z]{2,}(-[a-z]+)+-\d+"),
        "profile": base.Option("the name of a profile in the configuration files of AWS", r"\S+"),
        "endpoint": base.Option("the URL of an endpoint of Systems Manager, with https", r"https://\S+"),
        "kms_key": base.Option("the id, ARN or alias of a KMS key", r"[A-Za-z0-9:/_-]+"),
    }

    def __init__(self, options: Mapping[str, str]) -> None:
        """Refuse to work without boto3."""
        super().__init__(options)
        if MISSING:
            raise base.Refused(f"The Python package {MISSING} is missing on the control node; run `pip install boto3`.")
        self._known_client: Any = None
        self._seen = 0

    @property
    def place(self) -> str:
        """The path."""
        return self.options["path"]

    def _path(self, name: str) -> str:
        return f"{self.options['path']}/{name}"

    # Calls

    def _client(self) -> Any:
        if self._known_client is None:
            session = boto3.Session(profile_name=self.options.get("profile"), region_name=self.options.get("region"))
            retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
            config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
            self._known_client = session.client("ssm", endpoint_url=self.options.get("endpoint"), config=config)
        return self._known_client

    def _call(self, operation: str, target: str, **arguments: Any) -> Any:
        """Call an operation of the service; what it refuses is told in a sentence about the target."""
        with self._refusals(f"ssm:{operation}", target):
            method = getattr(self._client(), re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower())
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return method(**arguments)
                except exceptions.ClientError as error:
                    if code_of(error) != BUSY or attempt == ATTEMPTS:
                        raise
                    time.sleep(PAUSE_SECONDS * attempt)

    @contextlib.contextmanager
    def _refusals(self, action: str, target: str) -> Iterator[None]:
        """Turn what the SDK raises into sentences. Its own texts are not shown: they can quote what was sent."""
        try:
            yield
        except exceptions.ClientError as error:
            if code_of(error) == EXISTS:
                raise
            raise base.Refused(self._sentence(error, action, target)) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
            raise base.Refused(
                "No AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in"
                " secrets_options.profile, or run where an IAM role is attached."
            ) from None
        except exceptions.ProfileNotFound:
            raise base.Refused(
                "The profile in secrets_options.profile or AWS_PROFILE is not in the configuration files of AWS;"
                " `aws configure list-profiles` lists those that are."
            ) from None
        except exceptions.NoRegionError:
            raise base.Refused(
                "secrets_options.region is missing, and neither AWS_DEFAULT_REGION nor the profile names a region."
            ) from None
        except exceptions.SSLError:
            raise base.Refused(
                f"The certificate of {self._host()} cannot be verified; name the CA bundle to trust in AWS_CA_BUNDLE."
            ) from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise base.Refused(
                f"{self._host()} gave no answer to {action} on {target} ({type(error).__name__}); check"
                " secrets_options.region, the network and its proxy."
            ) from None
        except exceptions.BotoCoreError as error:
            # Others are about tokens and settings, which the class names.
            raise base.Refused(
                f"AWS cannot be asked for {action} on {target} ({type(error).__name__}); check the credentials and"
                " secrets_options."
            ) from None

    def _host(self) -> str:
        return str(self._client().meta.endpoint_url).removeprefix("https://")

    def _sentence(self, error: Any, action: str, target: str) -> str:
        code, text = code_of(error), str(error.response.get("Error", {}).get("Message", ""))
        if code in DENIED:
            who = re.search(r"arn:aws[\w-]*:(iam|sts)::\S+", text)
            key = re.search(r"kms:\w+", text)
            wanted = key[0] if key else action
            return f"{who[0] if who else 'This identity'} may not {wanted} on {target}; grant that action: {HELP}."
        if code in THROTTLED or code == BUSY:
            return f"AWS keeps putting off {action} on {target} ({code}); run the playbook again in a few minutes."
        if code in UNKNOWN_KEY:
            return "AWS does not know the access key that is in use; check AWS_ACCESS_KEY_ID or the profile."
        if code in WRONG_KEY:
            return (
                "AWS refuses the secret access key that is in use; check AWS_SECRET_ACCESS_KEY or the profile, and this"
                " machine's clock."
            )
        if code in EXPIRED:
            return "The AWS credentials that are in use have expired; get new ones, such as with `aws sso login`."
        if code == "InvalidKeyId":
            return f"KMS cannot use the key of {target}; secrets_options.kms_key takes one that exists and is enabled."
        if code == "ParameterMaxVersionLimitExceeded":
            return f"{target} has no room for a version, since its oldest one has a label; move that label."
        return f"AWS refused {action} on {target} with {code}."

    def _get(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return those parameters that are there, by name with selector, as they were asked for."""
        asked, found = sorted(names), {}
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            target = ", ".join(name.partition(":")[0] for name in batch)
            answer = self._call("GetParameters", target, Names=batch, WithDecryption=True)
            found.update({f"{one['Name']}{one.get('Selector', '')}": one for one in answer["Parameters"]})
        return found

    def _put(self, name: str, value: str, *, overwrite: bool) -> int:
        """Put a new version of a secret, and return its number."""
        # Without a key each new version takes the account's, whatever the one before had.
        key = {"KeyId": self.options["kms_key"]} if "kms_key" in self.options else {}
        path = self._path(name)
        arguments = {"Name": path, "Value": value, "Type": "SecureString", "Overwrite": overwrite, **key}
        return int(self._call("PutParameter", path, **arguments)["Version"])

    def _label(self, name: str, version: int, label: str) -> None:
        path = self._path(name)
        self._call("LabelParameterVersion", path, Name=path, ParameterVersion=version, Labels=[label])

    # Secrets

    def read(self, names: Iterable[str], *, history: bool) -> dict[str, base.Secret]:
        """Return the stages of each name; of one without a label, which was never rotated, the latest is current."""
        paths = {name: self._path(name) for name in sorted(names)}
        current = self._get(f"{path}:current" for path in paths.values())
        latest = self._get(path for path in paths.values() if f"{path}:current" not in current)
        # The first rotation may have begun in between. It labels the current version before it puts another, so what
        # has no label now was the latest version before there was another.
        current |= self._get(f"{path}:current" for path in latest)
        labelled = [path for path in paths.values() if f"{path}:current" in current]
        latest = {path: one for path, one in latest.items() if path not in labelled}
        pending = self._get(f"{path}:pending" for path in labelled)
        previous = self._get(f"{path}:previous" for path in labelled)

        problems = [
            f"{one['Name']} {wrong}"
            for one in [*current.values(), *latest.values(), *pending.values()]
            if (wrong := wrong_with(one))
        ]
        if problems:
            raise base.Refused(*dict.fromkeys(problems))
        found = {}
        for name, path in paths.items():
            used = current.get(f"{path}:current") or latest.get(path)
            stages = {"pending": pending.get(f"{path}:pending"), "previous": previous.get(f"{path}:previous")}
            others = {
                stage: version_of(one, keep_value=stage == "pending")
                for stage, one in stages.items()
                if one and used and one["Version"] != used["Version"]
            }
            found[name] = base.Secret(current=version_of(used) if used else None, **others)
        return found

    def create(self, values: Mapping[str, str]) -> None:
        """Put the first version of each parameter; the service refuses what is there already."""
        for name, value in values.items():
            with self._existing_kept():
                self._put(name, value, overwrite=False)

    @contextlib.contextmanager
    def _existing_kept(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ClientError as error:
            if code_of(error) != EXISTS:
                raise

    def pend(self, name: str, value: str) -> None:
        """Put a new version and label it pending, after the one in force has been labelled current."""
        path = self._path(name)
        if not self._get([f"{path}:current"]):
            self._label(name, int(self._get([path])[path]["Version"]), "current")
        self._label(name, self._put(name, value, overwrite=True), "pending")

    def promote(self, name: str, secret: base.Secret) -> None:
        """Label the old version previous, then move the label current, which is the one step that counts."""
        if secret.current:
            self._label(name, int(secret.current.version), "previous")
        if secret.pending:
            self._label(name, int(secret.pending.version), "current")

    def discard(self, name: str, secret: base.Secret) -> None:
        """Move the label pending to the current version, where it means that there is none."""
        if secret.current:
            self._label(name, int(secret.current.version), "pending")

    # Lock

    def held(self) -> base.Claim | None:
        """Return the claim of the newest record that counts: one that follows the version which its writer had seen."""
        path = self._path("lock")
        one = self._get([path]).get(path)
        self._seen = int(one["Version"]) if one else 0
        try:
            while one:
                record, before = json.loads(one["Value"]), int(one["Version"]) - 1
                if record["over"] == before:
                    return None if "released" in record else base.Claim.from_record(record)
                one = self._get([f"{path}:{before}"]).get(f"{path}:{before}")
        except (ValueError, TypeError, KeyError):
            raise base.Refused(
                f"{path} is not a lock that this project has written; delete that parameter, or set another"
                " secrets_options.path."
            ) from None
        return None

    def claim(self, claim: base.Claim) -> bool:
        """Put a record over the version that was seen, and tell whether it is the next one."""
        return self._put_lock(claim.as_record())

    def release(self) -> bool:
        """Put a record that holds nothing."""
        return self._put_lock({"released": base.stamp(base.now())})

    def _put_lock(self, record: Mapping[str, str]) -> bool:
        path = self._path("lock")
        value = json.dumps({**record, "over": self._seen})
        with self._existing_kept():
            answer = self._call("PutParameter", path, Name=path, Value=value, Type="String", Overwrite=self._seen > 0)
            return int(answer["Version"]) == self._seen + 1
        return False


def code_of(error: Any) -> str:
    """Return the service's code of an error."""
    return str(error.response.get("Error", {}).get("Code", "an error without a code"))


def version_of(parameter: Mapping[str, Any], *, keep_value: bool = True) -> base.Version:
    """Return a parameter's version as the store's."""
    value = str(parameter["Value"]).rstrip("\r\n") if keep_value else None
    return base.Version(str(parameter["Version"]), parameter["LastModifiedDate"], value)


def wrong_with(parameter: Mapping[str, Any]) -> str:
    """Return why a parameter cannot be used, to follow its name; nothing when it can."""
    if parameter["Type"] != "SecureString":
        return (
            f"is of the type {parameter['Type']}, which is not encrypted; delete it and put the secret again as a"
            " SecureString."
        )
    return base.fault(str(parameter["Value"]).rstrip("\r\n"))


if __name__ == "__main__":
    main(Parameters)
