"""Gives what was imported to a named user, by MLflow's own store of permissions."""

from __future__ import annotations

from typing import Any

from parts import ImportFailure
from target import connect, told_of

SERVICE = "mlflow_auth"


class Grants:
    """The permissions of one user.

    Args:
        owner: The user's name; nobody if it is empty.
    """

    def __init__(self, owner: str) -> None:
        """Nothing is asked of the database yet."""
        self.owner = owner
        self._opened: Any = None

    def check(self) -> None:
        """Refuse a user who does not exist.

        Raises:
            ImportFailure: There is no such user.
        """
        if not self.owner:
            return
        with told_of(SERVICE):
            connection = connect(SERVICE)
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM users WHERE username = %s", (self.owner,))
                found = cursor.fetchone()
            connection.close()
        if not found:
            raise ImportFailure(f"The server has no user {self.owner!r}; the owner takes the name of one that exists.")

    @property
    def _store(self) -> Any:
        if self._opened is None:
            from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

            self._opened = SqlAlchemyStore()
            self._opened.init_db(f"postgresql+psycopg2:///?service={SERVICE}")
        return self._opened

    def has(self, kind: str, name: str) -> bool:
        """Say whether the user has a permission for a resource already."""
        with told_of(SERVICE):
            connection = connect(SERVICE)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT 1 FROM role_permissions p JOIN roles r ON r.id = p.role_id JOIN users u "
                    "ON r.name = '__user_' || u.id || '__' WHERE u.username = %s AND p.resource_type = %s "
                    "AND p.resource_pattern = %s",
                    (self.owner, kind, name),
                )
                found = cursor.fetchone()
            connection.close()
        return bool(found)

    def ensure(self, owner: str, kind: str, name: str) -> None:
        """Let a user manage a resource.

        Args:
            owner: The user's name.
            kind: "experiment", "registered_model" or "prompt".
            name: The resource's id or name.
        """
        try:
            self._store.grant_user_permission(owner, kind, name, "MANAGE")
        except Exception as error:
            raise ImportFailure(f"The user {owner!r} could not be given {kind} {name!r}: {error}.") from error

    def revoke(self, owner: str, kind: str, name: str) -> None:
        """Take a permission back; none is no error."""
        from mlflow.exceptions import MlflowException

        try:
            self._store.revoke_user_resource_permission(owner, kind, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise ImportFailure(f"{kind} {name!r} could not be taken from {owner!r}: {error}.") from error
