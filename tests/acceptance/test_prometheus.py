"""The real Prometheus, configured as compose.yaml does, scrapes a real bridge with its token."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.prometheus import Prometheus, prometheus
from tests.support.promtool import ALERTS, alert_names
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.site import PASSWORD, Site
from tests.support.witness import bind

TOKEN = "pl4nted-s3cret-token"
PANELS = json.loads((ALERTS.parent / "dashboard.json").read_text("utf-8"))["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

EMPTY_WHILE_WELL = {
    "account_bridge_problem == 1": "there is none",
    "account_bridge_pbx_walk_accounts": "no full walk is under way",
}


async def test_prometheus_sees_what_the_bridge_tells_and_raises_the_alarm(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    port = free_port()
    tokens = tmp_path / "bridge.security.secret", tmp_path / "prometheus.secret"
    tokens[0].write_text(TOKEN)
    tokens[1].write_text("of another bridge")
    pbx = Pbx(accounts=5, app="app", password=PASSWORD)
    async with AsyncExitStack() as pbx_is_there:
        served = await pbx_is_there.enter_async_context(serve(pbx))
        place = Site(tmp_path, broker, pbx, served)
        await bind(broker, place.exchange, place.queue)
        place.environment |= {"BRIDGE_STATUS_PORT": str(port), "BRIDGE_STATUS_TOKEN_FILE": str(tokens[0])}
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            async with prometheus(tmp_path, f"127.0.0.1:{port}", tokens[1]) as seer:
                await its_rules_are_all_there(seer)
                await only_the_token_lets_it_in(seer, tokens[1])
                await while_all_is_well_every_panel_shows_something(seer)
                await pbx_is_there.aclose()
                await a_pbx_that_is_away_raises_its_alarm(seer)
                async with serve(pbx, port=served.port):
                    await seer.until(lambda: nothing_is_wrong(seer))


async def its_rules_are_all_there(seer: Prometheus) -> None:
    rules = await seer.rules()
    assert [rule["name"] for rule in rules] == alert_names()


async def only_the_token_lets_it_in(seer: Prometheus, token: Path) -> None:
    async def is_refused() -> bool:
        target = await seer.target()
        return bool(target["health"] == "down" and "401" in target["lastError"])

    async def is_let_in() -> bool:
        return bool((await seer.target())["health"] == "up")

    await seer.until(is_refused)
    await seer.until(lambda: fires(seer, "AccountBridgeDown"))
    token.write_text(TOKEN)
    await seer.until(is_let_in)
    (up,) = await seer.ask("up")
    assert up["metric"]["job"] == "account-bridge"


async def while_all_is_well_every_panel_shows_something(seer: Prometheus) -> None:
    async def silent() -> set[str]:
        return {expression for expression in EXPRESSIONS if not await seer.ask(expression)}

    async def all_speak() -> bool:
        return await silent() == set(EMPTY_WHILE_WELL)

    assert not [expression for expression in EXPRESSIONS if "$" in expression], "variables of Grafana to be filled in"
    await seer.until(all_speak)
    await seer.until(lambda: nothing_is_wrong(seer))
    (ready,) = await seer.ask("account_bridge_ready")
    assert ready["value"][1] == "1"


async def a_pbx_that_is_away_raises_its_alarm(seer: Prometheus) -> None:
    await seer.until(lambda: fires(seer, "AccountBridgePbxAway"))
    (problem,) = await seer.ask("account_bridge_problem == 1")
    assert (problem["metric"]["where"], problem["metric"]["cause"]) == ("hq", "pbx_unreachable")
    assert await seer.alerts() == {"AccountBridgePbxAway": "firing"}
    rules = await seer.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [rule["lastError"] for rule in rules if "lastError" in rule]
    (words,) = [
        alert["annotations"]["summary"]
        for rule in rules
        if rule["name"] == "AccountBridgePbxAway"
        for alert in rule["alerts"]
    ]
    assert words == "The PBX hq does not answer"


async def fires(seer: Prometheus, alert: str) -> bool:
    return (await seer.alerts()).get(alert) == "firing"


async def nothing_is_wrong(seer: Prometheus) -> bool:
    return not await seer.alerts()
