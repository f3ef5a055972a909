#!/usr/bin/python
"""Ansible module: users of MLflow for machines, with rights on named experiments."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mlflow_users
short_description: Users of MLflow for machines, with rights on named experiments
description:
  - Asks MLflow's own API, on the unix socket of the server, as an administrator.
  - What stands in the way is told in C(problems), and the task succeeds, for its caller sets C(no_log), which would
    hide the reason of a failure.
options:
  operation:
    description:
      - C(ensure) makes what is missing, takes away what is not listed, and leaves alone what is as it should be. An
        experiment that is not there is made. In check mode it says what it would do, also while no server runs.
      - C(renew) sets the password of each user that is present, whatever it was, and looks at nothing else.
      - C(look) returns in C(differ) the users that cannot log in with their password, whatever the reason.
    choices: [ensure, renew, look]
    default: ensure
  socket:
    description: The unix socket of the server.
    type: path
    required: true
  host:
    description: Host name that the server answers for.
    required: true
  admin_username:
    description: Name of an administrator.
    required: true
  admin_password:
    description: Password of that administrator.
    required: true
  users:
    description: >-
      For each user C(name), C(state) (C(present) or C(absent)) and, for one that is present, C(password) and
      C(experiments), the permission by name of experiment.
    type: list
    elements: dict
    required: true
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Ensure the training job's user
  mlflow_users:
    socket: /opt/mlflow/active/socket
    host: mlflow.example.com
    admin_username: admin
    admin_password: "{{ admin_password }}"
    users:
      - name: ci-training
        state: present
        password: "{{ ci_password }}"
        experiments: {churn: EDIT}
  register: __site_users
  no_log: true
"""

RETURN = r"""
done:
  description: One sentence for each thing that was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
differ:
  description: Names of the users that cannot log in with their password.
  type: list
  elements: str
  returned: always
problems:
  description: What stands in the way, in sentences.
  type: list
  elements: str
  returned: always
"""

TIMEOUT_SECONDS = 60
OK, UNAUTHORIZED, NOT_FOUND = 200, 401, 404
EXPERIMENT = "experiment"
# What MLflow grants to a user itself is in a role of this name, which no other user has.
OWN_ROLE = "__user_"

Login = tuple[str, str]


class Refused(Exception):
    """The server cannot be asked, or refuses; the argument is the sentence that says why."""


class SocketConnection(http.client.HTTPConnection):
    """A connection to a unix socket.

    Args:
        path: The socket.
        host: Host name that requests are for.
    """

    def __init__(self, path: str, host: str) -> None:
        """Prepare it."""
        super().__init__(host, timeout=TIMEOUT_SECONDS)
        self.path = path

    def connect(self) -> None:
        """Open it."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self.path)


@dataclass(frozen=True)
class Server:
    """MLflow, as an administrator asks it.

    Args:
        path: Its unix socket.
        host: Host name that it answers for.
        admin: Name and password of the administrator.
    """

    path: str
    host: str
    admin: Login

    def ask(self, method: str, path: str, login: Login | None = None, **body: Any) -> tuple[int, Any]:
        """Return status and content of one answer.

        Args:
            method: Of the request.
            path: Below `/api/`.
            login: Who asks; the administrator unless it is given.
            body: What is asked; of GET, in the query.

        Raises:
            Refused: Nobody answers.
        """
        name, password = login or self.admin
        headers = {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}
        content = None
        if method == "GET":
            path += "?" + urllib.parse.urlencode(body)
        else:
            content = json.dumps(body)
            headers["Content-Type"] = "application/json"
        connection = SocketConnection(self.path, self.host)
        try:
            connection.request(method, f"/api/{path}", content, headers)
            answer = connection.getresponse()
            status, raw = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"MLflow does not answer on {self.path} ({type(error).__name__}).") from error
        finally:
            connection.close()
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, {}

    def get(self, method: str, path: str, absent: int | None = None, **body: Any) -> Any:
        """Return the content of an answer to the administrator, or None if what is asked for is not there.

        Args:
            method: Of the request.
            path: Below `/api/`.
            absent: Status that says so; any other than 200 is an error.
            body: What is asked.

        Raises:
            Refused: The server says no.
        """
        status, content = self.ask(method, path, **body)
        if status == OK:
            return content
        if status == absent:
            return None
        if status == UNAUTHORIZED:
            raise Refused(f"MLflow refuses the login of the administrator '{self.admin[0]}'.")
        said = str(content.get("message", "")) if isinstance(content, dict) else ""
        raise Refused(f"MLflow answers {status} to {method} {path}: {' '.join(said.split()) or 'no reason given'}")

    def lets_in(self, login: Login) -> bool:
        """Say whether a user can log in.

        Raises:
            Refused: The server fails to say.
        """
        status, _ = self.ask("GET", "2.0/mlflow/users/current", login)
        if status not in {OK, UNAUTHORIZED}:
            raise Refused(f"MLflow answers {status} to the login of '{login[0]}'.")
        return status == OK


@dataclass
class Work:
    """Makes users what they should be, and keeps account of it.

    Args:
        server: Where.
        check: Say what would be done, and do nothing.
        done: A sentence for each change.
        experiments: Ids of experiments by name; None for one that check mode has not made.
    """

    server: Server
    check: bool
    done: list[str] = field(default_factory=list)
    experiments: dict[str, str | None] = field(default_factory=dict)

    def change(self, sentence: str, method: str, path: str, **body: Any) -> Any:
        """Do one thing, unless this is check mode; return the answer."""
        answer = {} if self.check else self.server.get(method, path, **body)
        self.done.append(sentence)
        return answer

    def remove(self, name: str) -> None:
        """Ensure that there is no such user."""
        if self.server.get("GET", "2.0/mlflow/users/get", NOT_FOUND, username=name):
            self.change(f"{name}: removed", "DELETE", "2.0/mlflow/users/delete", username=name)

    def ensure(self, name: str, password: str, wanted: Mapping[str, str]) -> None:
        """Ensure a user with this password, and with these rights alone.

        Args:
            name: Name of the user.
            password: Its password.
            wanted: Permission by name of experiment.
        """
        found = self.server.get("GET", "2.0/mlflow/users/get", NOT_FOUND, username=name)
        if not found:
            self.change(f"{name}: made", "POST", "2.0/mlflow/users/create", username=name, password=password)
        else:
            if found["user"]["is_admin"]:
                path = "2.0/mlflow/users/update-admin"
                self.change(f"{name}: no administrator any more", "PATCH", path, username=name, is_admin=False)
            if not self.server.lets_in((name, password)):
                self.set_password(name, password)
        ids = {experiment: self.experiment(experiment) for experiment in wanted}
        held = self.own_grants(name) if found or not self.check else {}
        for experiment, permission in wanted.items():
            self.grant(name, experiment, permission, held.pop(ids[experiment], None))
        for experiment_id in held:
            self.change(
                f"{name}: no rights on the experiment with the id {experiment_id} any more",
                "POST",
                "3.0/mlflow/users/permissions/revoke",
                username=name,
                resource_type=EXPERIMENT,
                resource_id=experiment_id,
            )

    def set_password(self, name: str, password: str) -> None:
        """Give a user a password."""
        path = "2.0/mlflow/users/update-password"
        self.change(f"{name}: password set", "PATCH", path, username=name, password=password)

    def renew(self, name: str, password: str) -> None:
        """Give a user a password, and make the user if there is none."""
        if self.server.get("GET", "2.0/mlflow/users/get", NOT_FOUND, username=name):
            self.set_password(name, password)
        else:
            self.change(f"{name}: made", "POST", "2.0/mlflow/users/create", username=name, password=password)

    def experiment(self, name: str) -> str | None:
        """Return the id of an experiment, which is made if there is none.

        Raises:
            Refused: It was deleted, and can be restored.
        """
        if name not in self.experiments:
            path = "2.0/mlflow/experiments"
            found = self.server.get("GET", f"{path}/get-by-name", NOT_FOUND, experiment_name=name)
            if found and found["experiment"]["lifecycle_stage"] != "active":
                raise Refused(f"The experiment '{name}' was deleted; restore it, or take it out of the list.")
            made = found and found["experiment"]
            made = made or self.change(f"experiment '{name}': made", "POST", f"{path}/create", name=name)
            self.experiments[name] = made.get("experiment_id")
        return self.experiments[name]

    def own_grants(self, name: str) -> dict[str | None, dict[str, Any]]:
        """Return the grants of experiments that a user has, by their ids, and take the user out of shared roles."""
        held: dict[str | None, dict[str, Any]] = {}
        for role in self.server.get("GET", "3.0/mlflow/users/roles/list", username=name)["roles"]:
            if not role["name"].startswith(OWN_ROLE):
                path = "3.0/mlflow/roles/unassign"
                sentence = f"{name}: not in the role '{role['name']}' any more"
                self.change(sentence, "DELETE", path, username=name, role_id=role["id"])
                continue
            path = "3.0/mlflow/roles/permissions/list"
            for grant in self.server.get("GET", path, role_id=role["id"])["role_permissions"]:
                if grant["resource_type"] == EXPERIMENT:
                    held[grant["resource_pattern"]] = grant
        return held

    def grant(self, name: str, experiment: str, permission: str, held: Mapping[str, Any] | None) -> None:
        """Ensure one permission; one that is another is changed at once, so that no job is refused in between."""
        sentence = f"{name}: {permission} on the experiment '{experiment}'"
        if held is None:
            self.change(
                sentence,
                "POST",
                "3.0/mlflow/users/permissions/grant",
                username=name,
                resource_type=EXPERIMENT,
                resource_id=self.experiments[experiment],
                permission=permission,
            )
        elif held["permission"] != permission:
            path = "3.0/mlflow/roles/permissions/update"
            self.change(sentence, "PATCH", path, role_permission_id=held["id"], permission=permission)


def foreseen(users: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what will be done on a host whose server does not run yet."""
    return [f"{user['name']}: made, with its experiments" for user in users if user["state"] == "present"]


def work_through(work: Work, operation: str, users: Iterable[Mapping[str, Any]]) -> list[str]:
    """Do what is asked for each user.

    Args:
        work: What does it.
        operation: As in the documentation of the module.
        users: As in the documentation of the module.

    Returns:
        The names of those that cannot log in with their password, for the operation `look`.

    Raises:
        Refused: Something stands in the way.
    """
    differ = []
    for user in users:
        if user["state"] == "absent":
            if operation == "ensure":
                work.remove(user["name"])
        elif operation == "ensure":
            work.ensure(user["name"], user["password"], user["experiments"])
        elif operation == "renew":
            work.renew(user["name"], user["password"])
        elif not work.server.lets_in((user["name"], user["password"])):
            differ.append(user["name"])
    return differ


def main() -> None:
    """Run the module."""
    of_user = {
        "name": {"required": True},
        "state": {"choices": ["present", "absent"], "default": "present"},
        "password": {"default": "", "no_log": True},
        "experiments": {"type": "dict", "default": {}},
    }
    module = AnsibleModule(
        argument_spec={
            "operation": {"choices": ["ensure", "renew", "look"], "default": "ensure"},
            "socket": {"type": "path", "required": True},
            "host": {"required": True},
            "admin_username": {"required": True},
            "admin_password": {"required": True, "no_log": True},
            "users": {"type": "list", "elements": "dict", "options": of_user, "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    server = Server(given["socket"], given["host"], (given["admin_username"], given["admin_password"]))
    work = Work(server, module.check_mode)
    differ: list[str] = []
    problems: list[str] = []
    try:
        differ = work_through(work, given["operation"], given["users"])
    except Refused as error:
        if given["operation"] == "look":
            # Whoever cannot ask cannot log in either.
            differ = [user["name"] for user in given["users"] if user["state"] == "present"]
        elif module.check_mode and isinstance(error.__cause__, FileNotFoundError):
            work.done = foreseen(given["users"])
        else:
            problems.append(str(error))
    except Exception as error:
        problems.append(f"An answer of MLflow was not understood ({type(error).__name__}: {error}).")
    module.exit_json(changed=bool(work.done), done=work.done, differ=differ, problems=problems)


if __name__ == "__main__":
    main()
