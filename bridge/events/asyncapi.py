"""What subscribers of this very bridge can rely on: its exchange, its routing keys, and the fields that leave it.

The files in ``schemas/`` say what any bridge may publish; here they are narrowed to what this one is configured to: its
PBXs, its fields, and what a masked field looks like.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import orjson

from bridge import __version__
from bridge.events.cloudevents import DOUBT_HEADER, ID_HEADER, TRACE_HEADER
from bridge.events.normalize import Projection

ACCOUNT: Final = "account-changed.v1.schema.json"
CERTIFICATE: Final = "source-verified.v1.schema.json"
ASYNCAPI: Final = "asyncapi.json"

_MASKED: Final = "^masked:"
_PAYLOAD: Final = "application/schema+json;version=draft-07"
"""What the official AsyncAPI parser reads; the schemas use nothing in which draft 2020-12 differs but ``$defs``."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a bridge is configured to publish, and where."""

    exchange: str
    vhost: str = "/"
    sources: Sequence[str] = ()
    """Names of the PBXs; empty where any name may come."""
    projections: Sequence[Projection] = (Projection(),)
    """Which fields leave; one for each PBX where they differ."""
    log: str | None = None
    """The stream that keeps everything, if there is one."""
    queues: Sequence[tuple[str, Sequence[str]]] = ()
    """Queues that the bridge makes, with their binding keys."""
    is_traced: bool = False


def documents(offer: Offer) -> Mapping[str, bytes]:
    """Return every document of the contract as JSON, by its name."""
    account = account_schema(offer)
    made = {ACCOUNT: account, CERTIFICATE: schema(CERTIFICATE), ASYNCAPI: asyncapi(offer, account)}
    return {name: orjson.dumps(content, option=orjson.OPT_INDENT_2) for name, content in made.items()}


@cache
def _text(name: str) -> str:
    """Return a file of ``schemas/``: part of the installed package, or beside it in a checkout."""
    packaged = resources.files("bridge") / "schemas" / name
    found = packaged if packaged.is_file() else Path(__file__).parents[2] / "schemas" / name
    return found.read_text("utf-8")


def schema(name: str) -> dict[str, Any]:
    """Return a schema as it stands in ``schemas/``."""
    content: dict[str, Any] = json.loads(_text(name))
    return content


def account_schema(offer: Offer) -> dict[str, Any]:
    """Return the schema of account changes with only those fields that are published, masked ones as such."""
    narrowed = schema(ACCOUNT)
    if offer.sources:
        narrowed["properties"]["source"] = {
            "enum": [f"/pbx/{name}" for name in offer.sources],
            "description": narrowed["properties"]["source"]["description"],
        }
    account = narrowed["$defs"]["account"]
    fields = account["properties"]
    published = [name for name in fields if any(name in each.fields for each in offer.projections)]
    account["properties"] = {name: _field(name, fields[name], offer.projections) for name in published}
    account["description"] = "Only these fields are published by this bridge."
    names = narrowed["properties"]["data"]["properties"]["changed"]["items"]
    names["enum"] = [name for name in published if name != "guid"]
    return narrowed


def _field(name: str, plain: Mapping[str, Any], projections: Sequence[Projection]) -> Mapping[str, Any]:
    is_masked = {name in each.masked for each in projections if name in each.fields}
    if is_masked == {False}:
        return plain
    masked = _as_masked(plain)
    return masked if is_masked == {True} else {"anyOf": [plain, masked]}


def _as_masked(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    what = f"{plain.get('description', '')} Masked: a keyed hash shows that it changed, not what it is.".strip()
    if plain["type"] == "array" and plain["items"]["type"] == "object":
        fields = plain["items"]["properties"]
        mask = {next(iter(fields)): {"type": "string", "pattern": _MASKED}}
        return {**plain, "items": {**plain["items"], "properties": {**fields, **mask}}, "description": what}
    if plain["type"] == "array":
        return {"type": "array", "items": {"type": "string", "pattern": _MASKED}, "description": what}
    return {"type": ["string", "null"], "pattern": _MASKED, "description": what}


def asyncapi(offer: Offer, account: Mapping[str, Any]) -> dict[str, Any]:
    """Return the AsyncAPI 3 document of what *offer* says, complete in itself."""
    document: dict[str, Any] = json.loads(_text(ASYNCAPI))
    document["info"]["version"] = __version__
    exchange = {
        "name": offer.exchange,
        "type": "topic",
        "durable": True,
        "autoDelete": False,
        "vhost": offer.vhost,
    }
    for name, keys in (("accounts", "*.account.*"), ("certificates", "*.source.verified")):
        channel = document["channels"][name]
        channel["description"] = f"Topic exchange {offer.exchange}; bind a queue with {keys}"
        channel["bindings"]["amqp"]["exchange"] = exchange
        if offer.sources:
            channel["parameters"]["source"]["enum"] = list(offer.sources)
    for queue, bound in offer.queues:
        document["channels"][queue] = _queue(queue, f"Bound to {offer.exchange} with {', '.join(bound)}", offer)
    if offer.log is not None:
        document["channels"][offer.log] = _queue(
            offer.log, "A stream that keeps everything; read it with x-stream-offset", offer
        )
    headers = _headers(is_traced=offer.is_traced)
    payloads = (("accountChanged", account), ("sourceVerified", schema(CERTIFICATE)))
    for name, payload in payloads:
        message = document["components"]["messages"][name]
        message["headers"] = headers
        message["payload"] = {"schemaFormat": _PAYLOAD, "schema": _self_contained(payload)}
    return document


def _queue(name: str, words: str, offer: Offer) -> dict[str, Any]:
    return {
        "address": name,
        "description": words,
        "messages": {
            "accountChanged": {"$ref": "#/components/messages/accountChanged"},
            "sourceVerified": {"$ref": "#/components/messages/sourceVerified"},
        },
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": name,
                    "durable": True,
                    "exclusive": False,
                    "autoDelete": False,
                    "vhost": offer.vhost,
                },
                "bindingVersion": "0.3.0",
            }
        },
    }


def _headers(*, is_traced: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        ID_HEADER: {"type": "string", "description": "The event's id."},
        DOUBT_HEADER: {
            "type": "boolean",
            "description": "True where an earlier attempt may have reached the broker; the id is the same.",
        },
    }
    if is_traced:
        properties[TRACE_HEADER] = {"type": "string", "description": "W3C Trace Context."}
    return {"type": "object", "properties": properties}


def _self_contained(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return *payload* with what it refers to put in its place, since inside of another document ``#`` is that one."""
    definitions = payload.get("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, Mapping):
            target = node.get("$ref")
            if isinstance(target, str):
                return resolved({**definitions[target.rpartition("/")[2]], **_but(node, "$ref")})
            return {name: resolved(value) for name, value in node.items()}
        return [resolved(item) for item in node] if isinstance(node, list) else node

    made = resolved(_but(payload, "$schema", "$defs", "$id"))
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


def _but(node: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in names}
