"""Rules that every role and play must keep; docs/development.md says why."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.project import (
    PROJECT,
    ROLES,
    SECRET_NAME,
    Task,
    is_literal,
    load,
    names_in,
    names_of_template,
    plays,
    spec_of,
    tasks_of,
    tasks_of_plays,
)

ORDER = ["validate", "install", "configure", "service", "verify"]
# What a role leaves behind for others, by its spec's description.
FACTS = {
    "mlflow_server_disagreements",
    "mlflow_server_moving",
    "mlflow_server_serving",
    "mlflow_server_store",
    "move_artifacts_unfinished",
    "nginx_proxy_certificate_status",
    "postgresql_sessions_drained",
    "rotate_secrets_chosen",
    "rotate_secrets_started",
    "secrets_state",
    "secrets_values",
    "secrets_versions",
    "service_users_disagreements",
}
# Keywords of a task that Ansible never prints with values filled in. Of module_defaults, the modules of PostgreSQL hide
# what is secret themselves.
UNPRINTED = {"when", "until", "changed_when", "failed_when", "module_defaults"}

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def all_tasks() -> list[Task]:
    return [*itertools.chain.from_iterable(tasks_of(role) for role in ROLES), *tasks_of_plays()]


def names_of(tasks: Iterable[Task]) -> list[str]:
    return [task.name for task in tasks]


def all_options(options: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, dict[str, Any]]]:
    for name, option in options.items():
        yield f"{prefix}{name}", option
        yield from all_options(option.get("options", {}), f"{prefix}{name}.")


# Specs and defaults


@every_role
def test_entry_points_take_the_same_options(role: Path) -> None:
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    assert specs["main"]["options"] == specs["validate"]["options"]
    assert specs["main"]["short_description"]
    assert specs["main"]["description"], "the README begins with it"


@every_role
def test_every_option_is_typed_and_described(role: Path) -> None:
    for name, option in all_options(spec_of(role)):
        assert option.get("type"), name
        assert option.get("description"), name
        if option["type"] == "list":
            assert option.get("elements"), name


@every_role
def test_spec_and_defaults_agree(role: Path) -> None:
    defaults, spec = load(role / "defaults" / "main.yml"), spec_of(role)
    assert list(defaults) == list(spec), "names, or their order"
    for name, value in defaults.items():
        if is_literal(value):
            assert "default" in spec[name], f"{name} has a default, which its spec does not show"
            assert spec[name]["default"] == value, name
            assert type(spec[name]["default"]) is type(value), name
        else:
            assert "default" not in spec[name], f"{name} is computed; its description says how"


@every_role
def test_every_default_has_a_comment(role: Path) -> None:
    lines = (role / "defaults" / "main.yml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z]", line):
            assert lines[number - 1].startswith("# "), f"{line}: no comment above"


@every_role
def test_names_carry_the_role(role: Path) -> None:
    public, internal = f"{role.name}_", f"__{role.name}_"
    assert [name for name in spec_of(role) if not name.startswith(public)] == []
    constants = [name for path in role.glob("vars/*.yml") for name in load(path) or {}]
    facts = [
        name
        for task in tasks_of(role)
        for name in (task.arguments if task.module == "ansible.builtin.set_fact" else {})
        if name != "cacheable"
    ]
    registered = [task.keywords["register"] for task in tasks_of(role) if "register" in task.keywords]
    wrong = [name for name in [*constants, *facts, *registered] if not name.startswith(internal)]
    assert sorted(set(wrong) - FACTS) == []


# What a role knows


@every_role
def test_public_names_that_are_used_exist(role: Path) -> None:
    used = names_in([task.keywords for task in tasks_of(role)])
    used |= names_in([load(path) for path in [*role.glob("vars/*.yml"), role / "defaults" / "main.yml"]])
    used |= {name for path in role.glob("templates/*") for name in names_of_template(path)}
    public = {name for name in used if name.startswith(f"{role.name}_")}
    assert sorted(public - set(spec_of(role)) - FACTS) == []


@every_role
def test_a_role_knows_no_other_role_and_no_group(role: Path) -> None:
    foreign = tuple(f"{prefix}{other.name}_" for other in ROLES if other != role for prefix in ("", "__"))
    inventory = {"groups", "group_names", "hostvars", "inventory_dir", "inventory_file"}
    if role.name == "secrets":
        inventory.remove("inventory_dir")  # only as a default: secrets lie beside the inventory
    for path in [*role.glob("*/*.yml"), *role.glob("templates/*")]:
        if path.parent.name in {"meta", "files"}:
            continue
        used = names_of_template(path) if path.parent.name == "templates" else names_in(load(path))
        wrong = {name for name in used if name.startswith((*foreign, "site_"))} | (used & inventory)
        assert not wrong, path


def test_no_role_is_named_like_the_beginning_of_another() -> None:
    for one, other in itertools.permutations((role.name for role in ROLES), 2):
        assert not other.startswith(f"{one}_"), f"{one}_* would be variables of both"


# Tasks


@every_role
def test_the_main_file_imports_in_order(role: Path) -> None:
    tasks = [task for task in tasks_of(role) if task.path.name == "main.yml" and task.path.parent.name == "tasks"]
    imports, others = (
        {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"},
        {"ansible.builtin.setup", "ansible.builtin.include_vars"},
    )
    assert names_of(t for t in tasks if t.module not in imports | others) == []
    imported = [str(t.arguments["_"]).removesuffix(".yml") for t in tasks if t.module in imports]
    assert imported[0] == "validate"
    known = [name for name in imported if name in ORDER]
    assert known == sorted(known, key=ORDER.index)


@every_role
def test_tasks_are_named_after_their_file_and_handlers_are_named(role: Path) -> None:
    for task in tasks_of(role):
        name = task.keywords.get("name", "")
        assert name, task.name
        # A file that takes in others, and does no more, is a table of contents.
        contents = all(
            {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"} & set(entry) for entry in load(task.path)
        )
        if task.path.parent.name == "tasks" and task.path.stem != "main" and not contents:
            # configure_self_signed.yml: "Configure | …" or "Configure self signed | …".
            words = task.path.stem.split("_")
            heads = {" ".join(words[:count]) for count in range(1, len(words) + 1)}
            assert name[0].isupper(), task.name
            assert name.partition(" | ")[0].lower() in heads, task.name


def test_plays_and_their_tasks_are_named() -> None:
    assert [str(path) for path, play in plays() if not play.get("name")] == []
    assert [task.name for task in tasks_of_plays() if not task.keywords.get("name")] == []


def is_judged_later(task: Task) -> bool:
    """Say whether an assertion in the same file is about what a task registered.

    Under no_log a failure has no reason; such a task is let through, and the assertion gives the reason.
    """
    return any(
        task.keywords.get("register") in names_in(other.arguments.get("that"), keyword="that")
        for other in all_tasks()
        if other.path == task.path and other.module == "ansible.builtin.assert"
    )


def test_failures_are_neither_ignored_nor_declared_away() -> None:
    assert names_of(task for task in all_tasks() if "ignore_errors" in task.keywords) == []
    silent = [task for task in all_tasks() if task.keywords.get("failed_when") in (False, "false")]
    assert names_of(task for task in silent if not is_judged_later(task)) == []


def test_nothing_asks_for_the_latest_version() -> None:
    assert names_of(task for task in all_tasks() if task.arguments.get("state") == "latest") == []


def test_no_shell_is_run() -> None:
    shells = {"ansible.builtin.shell", "ansible.builtin.raw", "ansible.builtin.script", "ansible.builtin.expect"}
    assert names_of(task for task in all_tasks() if task.module in shells) == []


def test_facts_never_reach_a_cache() -> None:
    assert names_of(task for task in all_tasks() if "cacheable" in task.arguments) == []


# Secrets


def secret_names(role: Path | None) -> set[str]:
    """Return the names that hold secrets of a role: of options, and of constants and facts made from them."""
    roles = ROLES if role is None else [role]
    secret = {"secrets_values", "secrets_state"} | {
        name
        for each in roles
        for name, option in spec_of(each).items()
        if option.get("no_log") or SECRET_NAME.search(name)
    }
    made: list[tuple[str, object]] = [
        item for each in roles for path in each.glob("vars/*.yml") for item in (load(path) or {}).items()
    ]
    for each in roles:
        for task in tasks_of(each):
            if task.module == "ansible.builtin.set_fact":
                made += task.arguments.items()
    while more := {name for name, value in made if names_in(without_names(value)) & secret} - secret:
        secret |= more
    return secret


def printed_names(task: Task) -> set[str]:
    """Return the variables whose values Ansible may print when it runs a task."""
    keywords = {key: value for key, value in task.keywords.items() if key not in UNPRINTED}
    if task.module in {"ansible.builtin.assert", "ansible.builtin.fail", "ansible.builtin.debug"}:
        # An assertion is printed as it is written. Its message and the items of its loop are printed as they are.
        keywords = {
            key: value
            for key, value in {**keywords, **task.arguments}.items()
            if key in {"fail_msg", "msg", "var", "loop"}
        }
    if task.module in {"ansible.builtin.include_tasks", "ansible.builtin.import_tasks", "ansible.builtin.include_role"}:
        keywords = {key: value for key, value in keywords.items() if key == "loop"}
    return names_in(keywords)


def templates_of(task: Task) -> list[Path]:
    """Return the template files that a task fills in."""
    if task.module == "ensure_files" and isinstance(task.arguments["files"], list):
        sources = [file["template"] for file in task.arguments["files"] if "template" in file]
    elif task.module == "ansible.builtin.template" and isinstance(source := task.arguments.get("src"), str):
        items = task.keywords.get("loop")
        literal = [item for item in items if isinstance(item, str)] if isinstance(items, list) else []
        sources = [re.sub(r"{{\s*item\s*}}", item, source) for item in literal] or [source]
    else:
        return []
    patterns = [re.sub(r"{{.*?}}", "*", each) for each in sources]
    return [path for each in patterns for path in (task.path.parents[1] / "templates").glob(each)]


def without_names(value: object) -> object:
    """Take out of an expression what only yields the names of secrets, or what is said of them in words."""
    if not isinstance(value, str):
        return value
    said = r"(?:\w+ \| )?\w+ \| (?:rotation|renewal|status)_(?:lines|problems)\([^)]*\)"
    listed = r"[\w.]+ \| dict2items [^{}]*?map\(attribute='key'\)"
    return re.sub(rf"[\w.]+\.keys\(\)|{listed}|{said}", "[]", " ".join(value.split()))


def inner_names(names: set[str], task: Task) -> set[str]:
    """Add what the variables that a task sets for itself are made of."""
    own = task.keywords.get("vars") or {}
    return names.union(*(names_in(without_names(own[name])) for name in names & set(own)))


def test_tasks_that_handle_secrets_print_nothing() -> None:
    bad: list[str] = []
    for role in [*ROLES, None]:
        secret = secret_names(role)
        for task in tasks_of(role) if role else tasks_of_plays():
            in_templates = {name for path in templates_of(task) for name in names_of_template(path)}
            facts = set(task.arguments) if task.module == "ansible.builtin.set_fact" else set()
            handled = inner_names(printed_names(task) | in_templates | facts, task) & secret
            if handled and task.keywords.get("no_log") is not True:
                bad.append(f"{task.name} handles {sorted(handled)} without no_log: true")
            if handled and task.module == "ansible.builtin.template" and task.keywords.get("diff") is not False:
                bad.append(f"{task.name} handles {sorted(handled)} without diff: false")
    assert bad == []


def test_secret_options_are_plain_strings() -> None:
    """An error about type or choice would print the value."""
    for role in ROLES:
        for name, option in spec_of(role).items():
            if option.get("no_log") or SECRET_NAME.search(name):
                assert option["type"] in {"str", "dict"}, name
                assert "choices" not in option, name


def test_the_rules_look_at_something() -> None:
    assert len(ROLES) >= 6
    assert len(all_tasks()) > 100
    assert len(plays()) >= 5
    assert {"mlflow_server_database_password"} <= secret_names(PROJECT / "roles" / "mlflow_server")
