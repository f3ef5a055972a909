"""What a rotation says of the secrets, and which values count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plugins.filter.rotation import (
    State,
    next_values,
    renewal_lines,
    rotation_lines,
    status_lines,
    status_problems,
)


def stage(version: str, days: float = 0) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(days=days, minutes=1)
    return {"version": version, "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "value": f"canary-{version}"}


def state(**stages: dict[str, Any]) -> State:
    empty = {"current": None, "pending": None, "previous": None}
    return {name: {**empty, **each} for name, each in stages.items()}


NOW = state(
    flask={"current": stage("7", 12), "previous": stage("6", 100)},
    login={"current": stage("3", 1), "pending": stage("4")},
)


def test_the_pending_value_counts_of_what_is_chosen() -> None:
    assert next_values(NOW, ["flask", "login"]) == {"flask": "canary-7", "login": "canary-4"}
    assert next_values(NOW, ["flask"]) == {"flask": "canary-7", "login": "canary-3"}


def test_the_current_value_counts_on_the_way_back() -> None:
    assert next_values(NOW, ["flask", "login"], rollback=True) == {"flask": "canary-7", "login": "canary-3"}


def test_what_is_not_there_has_no_value() -> None:
    assert next_values(state(new={}), []) == {}


def test_a_plan_names_versions_and_ages() -> None:
    assert rotation_lines(["flask", "login"], NOW) == [
        "flask: version 7, 12 days old; to be renewed",
        "login: version 3, 1 day old; to be finished: version 4, 0 days old was not yet promoted",
    ]
    assert rotation_lines(["login"], NOW, rollback=True) == [
        "login: version 3, 1 day old; back to it from version 4, 0 days old"
    ]


def test_a_summary_says_from_which_version_to_which() -> None:
    after = state(flask={"current": stage("8")}, login={"current": stage("3")})
    assert renewal_lines(["flask", "login"], NOW, after) == [
        "flask: from version 7 to 8",
        "login: stays at version 3",
    ]


def test_a_report_says_where_hosts_and_store_differ() -> None:
    assert status_lines(NOW, {"b": ["flask"], "a": ["flask"]}) == [
        "flask: version 7, 12 days old; differs on a, b",
        "login: version 3, 1 day old; a rotation to version 4 was cut off; hosts agree",
    ]


@pytest.mark.parametrize(
    ("stages", "disagreements", "problem"),
    [
        ({"current": stage("1", 91)}, {}, "name is 91 days old, more than 90; rotate it."),
        ({}, {}, "name is missing from the store."),
        (
            {"current": stage("1"), "pending": stage("2")},
            {},
            "name has a rotation that was cut off; run playbooks/rotate_secrets.yml again.",
        ),
        ({"current": stage("1")}, {"a": ["name"]}, "name differs between a and the store; deploy the host."),
    ],
)
def test_what_an_operator_has_to_mend_is_a_problem(
    stages: dict[str, Any], disagreements: dict[str, list[str]], problem: str
) -> None:
    assert status_problems(state(name=stages), disagreements, 90) == [problem]


def certificate(days: float, *, agrees: bool = True) -> dict[str, Any]:
    now = datetime.now(UTC)
    ends = now + timedelta(days=days, minutes=1)
    return {
        "not_before": (now - timedelta(days=3, minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "not_after": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "agrees": agrees,
    }


def test_a_report_says_how_long_certificates_last() -> None:
    assert status_lines({}, {}, {"b": certificate(20), "a": certificate(300)}) == [
        "certificate of a: 3 days old, valid for 300 more",
        "certificate of b: 3 days old, valid for 20 more",
    ]


def test_a_certificate_that_ends_soon_or_is_not_served_is_a_problem() -> None:
    assert status_problems({}, {}, 90, {"a": certificate(14), "b": certificate(13)}) == [
        "The certificate of b is valid for 13 more days; renew it."
    ]
    assert status_problems({}, {}, 90, {"a": certificate(99, agrees=False)}) == [
        "a serves another certificate than it has; deploy the host."
    ]


def test_a_secret_of_the_last_allowed_day_is_no_problem() -> None:
    assert status_problems(state(name={"current": stage("1", 90)}), {"a": []}, 90) == []


def test_no_sentence_shows_a_value() -> None:
    sentences = [
        *rotation_lines(["flask", "login"], NOW),
        *rotation_lines(["login"], NOW, rollback=True),
        *renewal_lines(["flask", "login"], NOW, NOW),
        *status_lines(NOW, {"a": ["flask"]}),
        *status_problems(NOW, {"a": ["flask"]}, 1),
    ]
    assert [sentence for sentence in sentences if "canary" in sentence] == []
