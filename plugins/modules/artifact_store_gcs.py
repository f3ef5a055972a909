#!/usr/bin/python
"""Ansible module: a bucket of Google Cloud Storage for artifacts, and the service account that uses it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugins.module_utils import artifact_store as base
    from plugins.module_utils.artifact_store import main
else:
    from ansible.module_utils import artifact_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.artifact_store import main

try:
    import google.auth
    import requests
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    MISSING = ""
except ImportError as missing:
    MISSING = missing.name or "google-cloud-storage"

DOCUMENTATION = r"""
module: artifact_store_gcs
short_description: A bucket of Google Cloud Storage for artifacts, and the service account that uses it
description:
  - Creates a bucket or puts it right, with uniform access, public access prevented, versions, lifecycle rules, CORS and
    labels, and gives a service account what it needs on the bucket. Optionally creates the service account.
  - The module of the collection google.cloud says nothing in check mode, replaces all lifecycle rules, and knows no
    rules for a prefix.
  - Bindings, rules and labels of others stay as they are, and those that do the same already are enough. Rules have no
    names here, so one that is about the same prefix, with the same action and kinds of conditions, is taken for this
    module's.
  - Credentials are Application Default Credentials; none is an option.
options:
  bucket:
    description: Name of the bucket.
    type: str
    required: true
  prefix:
    description: Where in the bucket artifacts are, without a slash at the end; the rules are about nothing else.
    type: str
    default: ""
  project:
    description: Id of the project.
    type: str
    required: true
  location:
    description: Location of a bucket that has to be made.
    type: str
    default: ""
  versioning:
    description: Whether objects have versions.
    type: bool
    required: true
  noncurrent_days:
    description: Days after which versions that were replaced or deleted are removed; 0 for never.
    type: int
    required: true
  abort_multipart_days:
    description: Days after which the parts of an unfinished upload are removed.
    type: int
    required: true
  transition:
    description: C(days) and C(class), or nothing.
    type: dict
    default: {}
  expire:
    description: Dictionaries with C(prefix), below the store's own, and C(days).
    type: list
    elements: dict
    default: []
  cors_origins:
    description: Origins of pages that may read signed URLs.
    type: list
    elements: str
    default: []
  labels:
    description: Labels that the bucket has to have.
    type: dict
    default: {}
  service_account:
    description: Id of a service account, made when missing, or e-mail address of one; empty for none.
    type: str
    default: ""
requirements: [google-cloud-storage]
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Ensure the bucket
  artifact_store_gcs:
    bucket: example-mlflow
    project: example-1
    location: europe-west3
    versioning: true
    noncurrent_days: 30
    abort_multipart_days: 7
    service_account: mlflow-server
  register: __site_store
"""

RETURN = r"""
differences:
  description: What was, or in check mode would be, put right, one text for each setting.
  type: list
  elements: str
  returned: success
"""

OPTIONS: dict[str, dict[str, Any]] = {
    "bucket": {"type": "str", "required": True},
    "prefix": {"type": "str", "default": ""},
    "project": {"type": "str", "required": True},
    "location": {"type": "str", "default": ""},
    "versioning": {"type": "bool", "required": True},
    "noncurrent_days": {"type": "int", "required": True},
    "abort_multipart_days": {"type": "int", "required": True},
    "transition": {"type": "dict", "default": {}},
    "expire": {"type": "list", "elements": "dict", "default": []},
    "cors_origins": {"type": "list", "elements": "str", "default": []},
    "labels": {"type": "dict", "default": {}},
    "service_account": {"type": "str", "default": ""},
}

# MLflow lists, reads, writes, overwrites and deletes objects and uploads them in parts; it never asks for the bucket.
# https://cloud.google.com/storage/docs/access-control/iam-roles
ROLE = "roles/storage.objectUser"
IAM = "https://iam.googleapis.com/v1"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
CORS_METHODS = ["GET", "HEAD"]
# A service account that was just made is not known everywhere at once.
SETTLE_ATTEMPTS = 12
SETTLE_SECONDS = 5
HELP = "docs/artifacts.md lists what preparing the store needs"


class Bucket(base.Store):
    """A bucket, and the service account of the server."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Refuse to work without the SDK."""
        super().__init__(given)
        if MISSING:
            raise base.Refused(
                f"The Python package {MISSING} is missing on the control node; run `pip install google-cloud-storage`."
            )
        self.name: str = given["bucket"]
        self._known_client: Any = None
        self._bucket: Any = None

    @property
    def place(self) -> str:
        """The bucket."""
        return f"gs://{self.name}"

    # Calls

    def _client(self) -> Any:
        if self._known_client is None:
            credentials, _ = google.auth.default(scopes=[SCOPE])
            self._known_client = storage.Client(project=self.given["project"], credentials=credentials)
        return self._known_client

    def _call(self, permission: str, target: str, work: Callable[..., Any]) -> Any:
        """Ask for something; what is refused is told in a sentence about the permission and its target.

        Args:
            permission: What the identity needs.
            target: What it is about.
            work: Called with the keywords that limit time and repetition.
        """
        limits = {
            "timeout": (base.CONNECT_SECONDS, base.READ_SECONDS),
            "retry": DEFAULT_RETRY.with_timeout(base.ATTEMPTS * base.READ_SECONDS),
        }
        with self._refusals(permission, target):
            return work(**limits)

    @contextlib.contextmanager
    def _refusals(self, permission: str, target: str) -> Iterator[None]:
        """Turn what the SDK raises into sentences; what the caller may expect goes on as it is."""
        try:
            yield
        except (exceptions.NotFound, exceptions.Conflict, exceptions.PreconditionFailed, exceptions.BadRequest):
            raise
        except exceptions.Forbidden as error:
            raise base.Refused(self._forbidden(str(error.message), permission, target)) from None
        except exceptions.Unauthorized:
            raise base.Refused(
                "Google Cloud takes no token of this identity; log in anew with `gcloud auth application-default"
                " login`."
            ) from None
        except exceptions.RetryError as error:
            raise base.Refused(self._no_answer(error.cause or error, permission, target)) from None
        except (exceptions.TooManyRequests, exceptions.ServerError) as error:
            raise base.Refused(self._no_answer(error, permission, target)) from None
        except exceptions.GoogleAPICallError as error:
            raise base.Refused(f"Google Cloud refused {permission} on {target} with {error.code}.") from None
        except auth_exceptions.DefaultCredentialsError:
            raise base.Refused(
                "No Google credentials were found on the control node; set GOOGLE_APPLICATION_CREDENTIALS to a file of"
                " credentials, or log in with `gcloud auth application-default login`."
            ) from None
        except auth_exceptions.RefreshError:
            raise base.Refused(
                "Google refuses the credentials that are in use; log in anew with `gcloud auth application-default"
                " login`, or check the key in GOOGLE_APPLICATION_CREDENTIALS and this machine's clock."
            ) from None
        except (auth_exceptions.TransportError, requests.exceptions.RequestException) as error:
            raise base.Refused(self._no_answer(error, permission, target)) from None

    def _no_answer(self, error: BaseException, permission: str, target: str) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return (
                "The certificate of Google Cloud cannot be verified; name the CA bundle to trust in REQUESTS_CA_BUNDLE."
            )
        kind = type(error).__name__
        if isinstance(error, exceptions.GoogleAPICallError):
            return f"Google Cloud keeps putting off {permission} on {target} ({kind}); run the playbook again later."
        return f"Google Cloud gave no answer to {permission} on {target} ({kind}); check the network and its proxy."

    def _forbidden(self, text: str, permission: str, target: str) -> str:
        if "has not been used in project" in text or "is disabled" in text:
            return f"An API that {permission} belongs to is off in the project {self.given['project']}; turn it on."
        who = re.search(r"\S+@\S+?(?= does not have)", text)
        # The service names the permission that it misses, which can be another than that of the call.
        named = re.search(r"[Pp]ermission '([\w.]+)'", text)
        whose = ", or it belongs to somebody else" if permission == "storage.buckets.get" else ""
        return (
            f"{who[0] if who else 'This identity'} may not {named[1] if named else permission} on {target}{whose};"
            f" grant that permission: {HELP}."
        )

    # Steps

    def steps(self) -> Iterator[base.Step]:
        """Compare the bucket, then the service account and what it may do."""
        target = f"the bucket {self.name}"
        self._bucket = self._call(
            "storage.buckets.get", target, lambda **limits: self._client().lookup_bucket(self.name, **limits)
        )
        if self._bucket is None:
            if not self.given["location"]:
                raise base.Refused(
                    f"The bucket {self.name} is missing, and artifact_store_gcs_location is empty; it takes the"
                    " location of the bucket that has to be made."
                )
            missing = base.Difference(target, None, {"location": self.given["location"]})
            yield base.Step([missing, *self._differences({})], self._create)
        else:
            found = str(self._bucket.location or "")
            if self.given["location"] and found.upper() != self.given["location"].upper():
                raise base.Refused(
                    f"The bucket {self.name} is in {found}, where it stays; artifact_store_gcs_location is"
                    f" {self.given['location']} and takes that, or nothing."
                )
            yield base.Step(self._differences(self._bucket._properties), self._patch)
        if self.given["service_account"]:
            yield from self._service_account()

    def _create(self) -> None:
        self._bucket = self._client().bucket(self.name)
        self._set(self._bucket, {})
        try:
            self._call(
                "storage.buckets.create",
                f"the project {self.given['project']}",
                lambda **limits: self._client().create_bucket(
                    self._bucket, project=self.given["project"], location=self.given["location"], **limits
                ),
            )
        except exceptions.Conflict:
            raise base.Refused(
                f"The name {self.name} is taken by another project's bucket; choose another in artifact_store_uri."
            ) from None
        except (exceptions.BadRequest, exceptions.NotFound) as error:
            raise base.Refused(self._bad("storage.buckets.create", error)) from None

    def _patch(self) -> None:
        self._set(self._bucket, self._bucket._properties)
        try:
            self._call(
                "storage.buckets.update",
                f"the bucket {self.name}",
                # Of two runs at once one is refused, so that none undoes what the other has set.
                lambda **limits: self._bucket.patch(if_metageneration_match=self._bucket.metageneration, **limits),
            )
        except exceptions.PreconditionFailed:
            raise base.Refused(f"Somebody else changes the bucket {self.name}; run the playbook again.") from None
        except (exceptions.BadRequest, exceptions.NotFound, exceptions.Conflict) as error:
            raise base.Refused(self._bad("storage.buckets.update", error)) from None

    def _bad(self, permission: str, error: Any) -> str:
        text = " ".join(str(error.message).split()).rstrip(".").rpartition("prettyPrint=false: ")[2]
        return f"Google Cloud refused {permission} on the bucket {self.name} with {error.code}: {text}."

    def _set(self, bucket: Any, found: Mapping[str, Any]) -> None:
        """Write what is wanted into the SDK's copy of the bucket."""
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        bucket.versioning_enabled = self.given["versioning"]
        rules = found.get("lifecycle", {}).get("rule", [])
        bucket.lifecycle_rules = self._merged_rules(rules, self._recorded(found))
        bucket.cors = self._merged_cors(found.get("cors", []))
        labels = {**found.get("labels", {}), **self._wanted_labels()}
        if not self.given["expire"]:
            labels.pop(self._record_name(), None)
        bucket.labels = labels

    def _differences(self, found: Mapping[str, Any]) -> list[base.Difference]:
        access = found.get("iamConfiguration", {})
        labels = found.get("labels", {})
        uniform = access.get("uniformBucketLevelAccess", {}).get("enabled", False)
        stale = (
            [] if self.given["expire"] else base.compare("the record of rules", labels.get(self._record_name()), None)
        )
        return [
            *base.compare("uniform access", uniform, True),
            *base.compare("prevention of public access", access.get("publicAccessPrevention", "inherited"), "enforced"),
            *base.compare("versioning", found.get("versioning", {}).get("enabled", False), self.given["versioning"]),
            *self._rule_differences(found),
            *self._cors_differences(found.get("cors", [])),
            *base.compare_tags("the label", labels, self._wanted_labels()),
            *stale,
        ]

    # Lifecycle rules. They have no names: their slot stands for one.

    def _wanted_rules(self) -> list[dict[str, Any]]:
        given = self.given
        prefix = f"{given['prefix']}/" if given["prefix"] else ""
        here = {"matchesPrefix": [prefix]} if prefix else {}
        wanted: list[dict[str, Any]] = [
            rule_of("AbortIncompleteMultipartUpload", age=given["abort_multipart_days"], **here)
        ]
        if given["noncurrent_days"]:
            wanted.append(rule_of("Delete", daysSinceNoncurrentTime=given["noncurrent_days"], **here))
        if given["transition"]:
            transition = rule_of("SetStorageClass", age=int(given["transition"]["days"]), **here)
            transition["action"]["storageClass"] = given["transition"]["class"]
            wanted.append(transition)
        # Of live objects alone, so that what expires has its time as a version as well.
        wanted += [
            rule_of("Delete", age=int(each["days"]), isLive=True, matchesPrefix=[f"{prefix}{each['prefix']}"])
            for each in given["expire"]
        ]
        return wanted

    def _owned(self, rule: Mapping[str, Any], recorded: list[str]) -> bool:
        """Say whether a rule is this store's: of a kind that it has once, or one that the bucket's label records."""
        prefix = f"{self.given['prefix']}/" if self.given["prefix"] else ""
        here = {"matchesPrefix": [prefix]} if prefix else {}
        kinds = [
            rule_of("AbortIncompleteMultipartUpload", age=0, **here),
            rule_of("Delete", daysSinceNoncurrentTime=0, **here),
            rule_of("SetStorageClass", age=0, **here),
        ]
        return slot(rule) in map(slot, [*kinds, *self._wanted_rules()]) or fingerprint(slot(rule)) in recorded

    def _merged_rules(self, rules: list[dict[str, Any]], recorded: list[str]) -> list[dict[str, Any]]:
        kept = [rule for rule in rules if not self._owned(rule, recorded)]
        return [*kept, *self._needed_rules(rules, recorded)]

    def _needed_rules(self, rules: list[dict[str, Any]], recorded: list[str]) -> list[dict[str, Any]]:
        """Return the rules that are wanted, but for those whose work is done by rules of others."""
        own = [slot(rule) for rule in rules if self._owned(rule, recorded)]
        others = [(where, effects_of(rule)) for rule in rules if slot(rule) not in own for where in prefixes_of(rule)]
        return [
            rule
            for rule in self._wanted_rules()
            if slot(rule) in own or not base.covered(effects_of(rule), prefixes_of(rule)[0], others)
        ]

    def _rule_differences(self, found: Mapping[str, Any]) -> list[base.Difference]:
        recorded = self._recorded(found)
        rules = found.get("lifecycle", {}).get("rule", [])
        wanted = {slot(rule): rule for rule in self._needed_rules(rules, recorded)}
        # Of two about the same, the one that is not as wanted counts, and comes last.
        rules = sorted(map(normal, rules), key=lambda rule: rule != wanted.get(slot(rule)))
        owned = {slot(rule): rule for rule in rules if self._owned(rule, recorded)}
        return base.compare_named("the lifecycle rule", owned, wanted, lambda name: name in owned)

    def _record_name(self) -> str:
        return f"{base.OWN}-{fingerprint(self.given['prefix'])}"

    def _recorded(self, found: Mapping[str, Any]) -> list[str]:
        return str(found.get("labels", {}).get(self._record_name(), "")).split("_")

    def _wanted_labels(self) -> dict[str, str]:
        expire = [rule for rule in self._wanted_rules() if "isLive" in rule["condition"]]
        record = {self._record_name(): "_".join(fingerprint(slot(rule)) for rule in expire)} if expire else {}
        return {**{name: str(value) for name, value in self.given["labels"].items()}, **record}

    # CORS, whose rules have no names either: one for reading headers is this module's.

    def _wanted_cors(self) -> list[dict[str, Any]]:
        origins = self.given["cors_origins"]
        rule = {
            "origin": origins,
            "method": CORS_METHODS,
            "responseHeader": ["ETag"],
            "maxAgeSeconds": base.CORS_SECONDS,
        }
        return [rule] if origins else []

    def _merged_cors(self, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*(rule for rule in rules if not is_own_cors(rule)), *self._wanted_cors()]

    def _cors_differences(self, rules: list[dict[str, Any]]) -> list[base.Difference]:
        found = [rule for rule in rules if is_own_cors(rule)]
        return base.compare("the CORS rule", found[0] if found else None, next(iter(self._wanted_cors()), None))

    # The service account

    @property
    def _email(self) -> str:
        name: str = self.given["service_account"]
        # The project of a domain, example.com:name, comes the other way round.
        domain, _, project = self.given["project"].rpartition(":")
        return name if "@" in name else f"{name}@{'.'.join(filter(None, (project, domain)))}.iam.gserviceaccount.com"

    def _service_account(self) -> Iterator[base.Step]:
        if "@" not in self.given["service_account"]:
            url = f"{IAM}/projects/{self.given['project']}/serviceAccounts/{self._email}"
            if self._ask_iam("iam.serviceAccounts.get", "GET", url) is None:
                missing = base.Difference(
                    f"the service account {self._email}", None, {"project": self.given["project"]}
                )
                yield base.Step([missing], self._create_service_account)
        yield self._binding()

    def _create_service_account(self) -> None:
        body = {
            "accountId": self.given["service_account"],
            "serviceAccount": {"displayName": "MLflow's server, for its artifacts"},
        }
        url = f"{IAM}/projects/{self.given['project']}/serviceAccounts"
        if self._ask_iam("iam.serviceAccounts.create", "POST", url, body) is None:
            raise base.Refused(
                f"Google Cloud knows no project {self.given['project']}; check artifact_store_gcs_project."
            )

    def _ask_iam(self, permission: str, method: str, url: str, body: Any = None) -> Any:
        """Ask the API of IAM, of which there is no SDK here; what it does not find is nothing."""
        target = f"the service account {self._email}"

        def work(timeout: tuple[int, int], retry: Any) -> Any:
            def ask() -> Any:
                session = AuthorizedSession(self._client()._credentials)
                answer = session.request(method, url, json=body, timeout=timeout)
                if answer.status_code >= 400:
                    raise exceptions.from_http_response(answer)
                return answer.json()

            return retry(ask)()

        try:
            return self._call(permission, target, work)
        except exceptions.NotFound:
            return None
        except exceptions.Conflict:
            return {}  # made by somebody else in between
        except exceptions.BadRequest as error:
            raise base.Refused(f"Google Cloud refused {permission} on {target} with {error.code}.") from None

    def _binding(self) -> base.Step:
        member = f"serviceAccount:{self._email}"
        roles: list[str] = []
        policy: Any = None
        if self._exists():
            policy = self._call(
                "storage.buckets.getIamPolicy",
                f"the bucket {self.name}",
                lambda **limits: self._bucket.get_iam_policy(requested_policy_version=3, **limits),
            )
            # One with a condition does not always apply.
            roles = [
                each["role"] for each in policy.bindings if member in each["members"] and not each.get("condition")
            ]

        def apply() -> None:
            policy.version = 3
            policy.bindings = [*policy.bindings, {"role": ROLE, "members": {member}}]
            self._set_policy(policy)

        missing = base.Difference(f"the role of {self._email} on the bucket {self.name}", None, ROLE)
        return base.Step([] if ROLE in roles else [missing], apply)

    def _exists(self) -> bool:
        """Say whether the bucket is there; in check mode one that has to be made is not."""
        return self._bucket is not None

    def _set_policy(self, policy: Any) -> None:
        target = f"the bucket {self.name}"
        for attempt in range(1, SETTLE_ATTEMPTS + 1):
            try:
                self._call(
                    "storage.buckets.setIamPolicy",
                    target,
                    lambda **limits: self._bucket.set_iam_policy(policy, **limits),
                )
            except exceptions.BadRequest as error:
                if "does not exist" not in str(error.message):
                    raise base.Refused(self._bad("storage.buckets.setIamPolicy", error)) from None
                if attempt == SETTLE_ATTEMPTS:
                    raise base.Refused(
                        f"There is no service account {self._email}; check artifact_store_gcs_service_account."
                    ) from None
                time.sleep(SETTLE_SECONDS)
            except (exceptions.Conflict, exceptions.PreconditionFailed):
                raise base.Refused(f"Somebody else changes the policy of {target}; run the playbook again.") from None
            else:
                return


def rule_of(action: str, **condition: Any) -> dict[str, Any]:
    """Return a lifecycle rule."""
    return {"action": {"type": action}, "condition": condition}


def normal(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as this module writes it."""
    return {"action": dict(rule.get("action", {})), "condition": dict(rule.get("condition", {}))}


def slot(rule: Mapping[str, Any]) -> str:
    """Return what stands for a rule's name: its action, the kinds of its conditions, and where it applies."""
    condition = rule.get("condition", {})
    where = ",".join(sorted(condition.get("matchesPrefix", [])))
    return f"{rule.get('action', {}).get('type')} by {'+'.join(sorted(condition))}{' in ' if where else ''}{where}"


def effects_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rule does, and under which conditions but for where."""
    condition = {name: value for name, value in rule["condition"].items() if name != "matchesPrefix"}
    return {json.dumps(rule["action"], sort_keys=True): condition}


def prefixes_of(rule: Mapping[str, Any]) -> list[str]:
    """Return where a rule applies; an empty text is everywhere."""
    return rule["condition"].get("matchesPrefix") or [""]


def fingerprint(text: str) -> str:
    """Return a text as a label can hold it."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_own_cors(rule: Mapping[str, Any]) -> bool:
    """Say whether a CORS rule is one of those that this module writes."""
    return rule.get("method") == CORS_METHODS and rule.get("responseHeader") == ["ETag"]


if __name__ == "__main__":
    main(Bucket, OPTIONS)
