"""The contract as configured: judged by the official AsyncAPI parser, and held against what such a bridge publishes."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, ValidationError

from bridge.config.loading import load_settings
from bridge.delivery.ingest import ingest
from bridge.events import cloudevents
from bridge.events.asyncapi import ACCOUNT, ASYNCAPI, CERTIFICATE, documents, schema
from bridge.runtime.from_settings import build_offer, build_rules
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW
from tests.support.outbox import unsent
from tests.support.process import run
from tests.support.rows import batch, row

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "BRIDGE_PBX_URL": "wss://pbx.example.com",
    "BRIDGE_PBX_APP": "app",
    "BRIDGE_PBX_PASSWORD": "pl4nted-s3cret",
    "BRIDGE_PBX_NAME": "hq",
    "BRIDGE_RABBITMQ_URL": "amqp://bridge:pl4nted-s3cret@broker/telephony",
    "BRIDGE_RABBITMQ_EXCHANGE": "pbx.accounts.test",
}
NARROW = {
    **ENVIRONMENT,
    "BRIDGE_PUBLISH_EXCLUDE": "emails,domain",
    "BRIDGE_PUBLISH_INCLUDE": "template,hidden",
    "BRIDGE_PUBLISH_MASK": "numbers,groups,common_name",
    "BRIDGE_TRACES_ENABLED": "true",
}


@pytest.fixture(scope="session")
def parse() -> Callable[[Path], str]:
    """What the official parser says about a document; installed beside its package.json where that is possible."""
    folder = ROOT / "tests" / "support" / "asyncapi"
    if shutil.which("npm") is None:
        # The only official parser is written for Node; the document is checked by our own rules in any case.
        pytest.skip("the official AsyncAPI parser needs node and npm")
    if not (folder / "node_modules" / "@asyncapi" / "parser").is_dir():
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            # Without a way to the registry.
            pytest.skip(f"npm cannot install the official AsyncAPI parser: {done.stderr.strip()[-200:]}")

    def parsed(document: Path) -> str:
        command = ["node", str(folder / "check.js"), str(document)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return parsed


def offered(environment: dict[str, str]) -> dict[str, Any]:
    return {name: json.loads(body) for name, body in documents(build_offer(load_settings(None, environment))).items()}


@pytest.mark.parametrize("environment", [ENVIRONMENT, NARROW], ids=["plain", "narrow"])
def test_the_official_parser_takes_the_configured_contract(
    environment: dict[str, str], parse: Callable[[Path], str], tmp_path: Path
) -> None:
    file = tmp_path / ASYNCAPI
    file.write_text(json.dumps(offered(environment)[ASYNCAPI]))
    assert parse(file).splitlines() == [
        "channel {source}.account.{change} pbx.account.changed",
        "channel {source}.source.verified pbx.source.verified",
        "channel pbx.accounts.test.log pbx.account.changed,pbx.source.verified",
    ]


def test_the_official_parser_takes_the_general_contract(parse: Callable[[Path], str]) -> None:
    assert "pbx.source.verified" in parse(ROOT / "schemas" / ASYNCAPI)


def test_it_names_the_configured_exchange_host_sources_and_queues(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text('[[subscriber]]\nqueue = "pbx.accounts.test.crm"\nkeys = ["hq.account.*"]\n')
    told = documents(build_offer(load_settings(file, ENVIRONMENT)))[ASYNCAPI].decode()
    document = json.loads(told)
    accounts = document["channels"]["accounts"]
    assert accounts["bindings"]["amqp"]["exchange"]["name"] == "pbx.accounts.test"
    assert accounts["bindings"]["amqp"]["exchange"]["vhost"] == "telephony"
    assert accounts["parameters"]["source"]["enum"] == ["hq"]
    assert "hq.account.*" in document["channels"]["pbx.accounts.test.crm"]["description"]
    assert "s3cret" not in told


def test_only_with_traces_the_header_is_promised() -> None:
    for environment, promised in ((ENVIRONMENT, False), (NARROW, True)):
        headers = offered(environment)[ASYNCAPI]["components"]["messages"]["accountChanged"]["headers"]["properties"]
        assert ("traceparent" in headers) is promised


INFO = {
    "dn": "Mustermann, Erika",
    "cn": "Erika Mustermann",
    "e164": "403",
    "emails": [{"email": "erika@example.com"}],
    "grps": [{"name": "Support", "dyn": "in"}],
    "hide": True,
}


@pytest.mark.parametrize("environment", [ENVIRONMENT, NARROW], ids=["plain", "narrow"])
def test_what_such_a_bridge_publishes_fits_what_it_offers(environment: dict[str, str], tmp_path: Path) -> None:
    settings, offer = load_settings(None, environment), offered(environment)
    with SqliteStore(tmp_path / "bridge.db") as store:
        changes = [row("a", 1, info=INFO), row("a", 2, info={**INFO, "e164": "404"}), row("b", 3, info={})]
        ingest(store, batch(*changes), rules=build_rules(settings, settings.pbx[0].name, store.key), now=NOW)
        bodies = [json.loads(found.body) for found in unsent(store.exchange)]
    assert len(bodies) >= 2
    inlined = offer[ASYNCAPI]["components"]["messages"]["accountChanged"]["payload"]["schema"]
    for body in bodies:
        Draft202012Validator(offer[ACCOUNT]).validate(body)
        Draft7Validator(inlined).validate(body)
        fields = offer[ACCOUNT]["$defs"]["account"]["properties"]
        assert set(body["data"]["account"]) == set(fields), "these fields, and no other"


def test_a_plain_number_does_not_fit_where_it_is_masked() -> None:
    account = {"$ref": "#/$defs/account", "$defs": offered(NARROW)[ACCOUNT]["$defs"]}
    Draft202012Validator(account).validate({"guid": "a", "numbers": ["masked:00ff"]})
    with pytest.raises(ValidationError):
        Draft202012Validator(account).validate({"guid": "a", "numbers": ["403"]})


def test_where_pbxs_differ_a_field_may_come_either_way(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    pbx = '[[pbx]]\nname = "{}"\nurl = "wss://x"\napp = "a"\npassword = "pl4nted-s3cret"\n{}\n'
    file.write_text(pbx.format("hq", "") + pbx.format("branch", 'mask = ["numbers"]\nexclude = ["emails"]'))
    broker = {name: value for name, value in ENVIRONMENT.items() if "RABBITMQ" in name}
    told = json.loads(documents(build_offer(load_settings(file, broker)))[ACCOUNT])
    account = {"$ref": "#/$defs/account", "$defs": told["$defs"]}
    for numbers in (["403"], ["masked:00ff"]):
        Draft202012Validator(account).validate({"guid": "a", "numbers": numbers})
    assert "emails" in told["$defs"]["account"]["properties"], "one of them publishes it"


def test_a_bridge_that_narrows_nothing_offers_the_general_fields() -> None:
    assert schema(ACCOUNT)["$id"] == cloudevents.ACCOUNT_CHANGED_SCHEMA
    assert offered(ENVIRONMENT)[CERTIFICATE] == schema(CERTIFICATE)
    general, narrowed = schema(ACCOUNT), offered(ENVIRONMENT)[ACCOUNT]
    fields = narrowed["$defs"]["account"]["properties"]
    assert fields.items() <= general["$defs"]["account"]["properties"].items()


def test_the_command_prints_the_same() -> None:
    code, command = run("schema", environment=ENVIRONMENT)
    assert code == 0
    assert json.loads("\n".join(command.out)) == offered(ENVIRONMENT)[ASYNCAPI]
    code, command = run("schema", "--list", environment=ENVIRONMENT)
    assert command.out == sorted([ACCOUNT, ASYNCAPI, CERTIFICATE])
    code, command = run("schema", "nothing", environment=ENVIRONMENT)
    assert (code, "there is no document 'nothing'" in command.printed) == (2, True)
