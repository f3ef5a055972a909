"""Wrap the keys of the AI gateway's stored secrets by another passphrase.

Run with the Python of the release, as the server's user, with PGSERVICEFILE set. Standard input is JSON: `former` and
`next`, each with `passphrase` and `version`. Prints one line if it changed anything; on failure, the last line of
standard error is one sentence, nothing has changed, and the exit status is 1.

The same as upstream's `mlflow crypto rotate-kek`, which takes the passphrase as an argument that anybody can see and
cannot go back to a lower version. Each secret keeps its own key; that key alone is decrypted and encrypted.
"""

from __future__ import annotations

import json
import sys

from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlGatewaySecret
from mlflow.tracking import _get_store
from mlflow.utils.crypto import KEKManager, rotate_secret_encryption


def rewrap(former: KEKManager, following: KEKManager) -> int:
    """Wrap, in one transaction, every key that the former passphrase has wrapped.

    Args:
        former: The passphrase to decrypt by, with its version.
        following: The passphrase to encrypt by, with its version.

    Returns:
        How many keys were wrapped anew.

    Raises:
        MlflowException: A key cannot be decrypted by the former passphrase, or names a third one.
    """
    store = _get_store("postgresql+psycopg2:///?service=mlflow")
    with store.ManagedSessionMaker() as session:
        known = (former.kek_version, following.kek_version)
        others = session.query(SqlGatewaySecret).filter(SqlGatewaySecret.kek_version.not_in(known)).count()
        if others:
            raise MlflowException(
                f"{others} secrets are encrypted by a passphrase that is neither number {known[0]} nor {known[1]}; "
                "put the number of the passphrase in use before it in the store, as in 3:passphrase."
            )
        # Locked against a server that would change a row in between.
        rows = (
            session.query(SqlGatewaySecret)
            .filter(SqlGatewaySecret.kek_version == former.kek_version)
            .with_for_update()
            .all()
        )
        for row in rows:
            row.wrapped_dek = rotate_secret_encryption(
                row.encrypted_value, row.wrapped_dek, former, following
            ).wrapped_dek
            row.kek_version = following.kek_version
        return len(rows)


def main() -> int:
    """Wrap the keys anew. Returns the exit status."""
    given = json.load(sys.stdin)
    try:
        former, following = (
            KEKManager(passphrase=given[which]["passphrase"], kek_version=int(given[which]["version"]))
            for which in ("former", "next")
        )
        number = rewrap(former, following)
    except MlflowException as error:
        print(f"The gateway's keys could not be wrapped anew: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if number:
        print(f"wrapped {number} keys by passphrase {following.kek_version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
