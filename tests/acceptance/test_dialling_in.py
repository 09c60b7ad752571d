"""PBXs that dial a running bridge: they turn up, are read, are remembered, and nobody else gets in."""

import asyncio
import json
import re
from pathlib import Path

from bridge.pbx.inbound.identity import Identity
from bridge.simulator.server import call, keep_calling
from tests.support.certificates import fingerprint_of, written
from tests.support.dialled_site import PASSWORD, DialledSite, dialled_site, pbx_called
from tests.support.process import run
from tests.support.rabbit import PrivateBroker

MAIN, BRANCH = (Identity("example.com", name).source for name in ("main", "branch"))


async def status_of(place: DialledSite) -> str:
    _, command = await asyncio.to_thread(run, "status", environment=place.environment)
    return command.printed


async def test_pbxs_that_dial_need_no_configuration_but_the_password(tmp_path: Path, broker: PrivateBroker) -> None:
    main, branch = pbx_called("main", 30), pbx_called("branch", 20, seed=2)
    async with dialled_site(tmp_path, broker) as place, place.bridge() as bridge:
        assert "0 connected" in await status_of(place)
        async with call(main, place.url, ssl_context=place.context):
            first = await place.witness(until=30)
            async with call(branch, place.url, ssl_context=place.context):
                second = await place.witness(until=20)
                main.change_display_name(main.pick(), "renamed")
                third = await place.witness(until=1)
                shown = await status_of(place)
        assert await asyncio.to_thread(bridge.terminate) == 0
    assert [event["source"] for event in first.deliveries] == [f"/pbx/{MAIN}"] * 30
    assert [event["source"] for event in second.deliveries] == [f"/pbx/{BRANCH}"] * 20
    assert third.deliveries[0]["data"]["account"]["display_name"] == "renamed"
    assert [witness.sequences for witness in (first, second, third)] == [
        list(range(1, 31)),
        list(range(1, 21)),
        [31],
    ]
    assert "2 connected" in shown
    assert PASSWORD not in bridge.printed
    assert not main.oracle.mistakes + branch.oracle.mistakes


async def test_a_pbx_is_remembered_and_read_on_from_where_it_was(tmp_path: Path, broker: PrivateBroker) -> None:
    pbx = pbx_called("main", 40)
    async with dialled_site(tmp_path, broker) as place:
        async with place.bridge() as bridge:
            async with call(pbx, place.url, ssl_context=place.context):
                await place.witness(until=40)
                await asyncio.to_thread(bridge.wait_for_log, "source.verified")
            assert await asyncio.to_thread(bridge.terminate) == 0
        pbx.change_display_name(pbx.pick(), "while the bridge was away")
        async with place.bridge() as bridge:
            shown = await status_of(place)
            assert re.search(rf"{MAIN}: waiting for the PBX to dial for .* verified", shown), shown
            async with call(pbx, place.url, ssl_context=place.context):
                late = await place.witness(until=1)
            assert bridge.logs("source.starting")[0]["resumes"]
            assert await asyncio.to_thread(bridge.terminate) == 0
    assert [event["data"]["account"]["display_name"] for event in late.deliveries] == ["while the bridge was away"]


async def test_a_bridge_that_is_killed_while_a_pbx_dials_loses_nothing(tmp_path: Path, broker: PrivateBroker) -> None:
    pbx = pbx_called("main", 300)
    async with dialled_site(tmp_path, broker) as place:
        calling: asyncio.Task[None] | None = None
        for _ in range(3):
            async with place.bridge() as bridge:
                if calling is not None:
                    calling.cancel()
                calling = asyncio.create_task(
                    keep_calling(pbx, place.url, ssl_context=place.context, round_trip_seconds=0.002, pause_seconds=0.1)
                )
                handed_out = len(pbx.oracle.deliveries)
                async with asyncio.timeout(60):
                    while len(pbx.oracle.deliveries) < handed_out + 80:
                        await asyncio.sleep(0.01)
                bridge.kill()
        assert calling is not None
        calling.cancel()
        async with place.bridge() as bridge, call(pbx, place.url, ssl_context=place.context):
            witness = await place.witness(until=300)
            assert await asyncio.to_thread(bridge.terminate) == 0
    accounts = {event["data"]["account"]["guid"] for event in witness.deliveries}
    assert accounts == set(pbx.truth())


async def test_a_pbx_that_does_not_list_the_api_is_reported_and_read(tmp_path: Path, broker: PrivateBroker) -> None:
    from bridge.simulator.modes import Modes  # noqa: PLC0415 - used once

    pbx = pbx_called("main", 5, modes=Modes.parse(["pbxinfo-unlisted"]))
    async with dialled_site(tmp_path, broker) as place, place.bridge() as bridge:
        async with call(pbx, place.url, ssl_context=place.context):
            assert len((await place.witness(until=5)).ids) == 5
        assert (await asyncio.to_thread(bridge.wait_for_log, "listen.api_not_listed"))["source"] == MAIN


async def test_strangers_are_refused_counted_and_told_of_without_what_they_sent(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    stranger = pbx_called("main", 5)
    stranger.password = "an0ther-s3cret"
    async with dialled_site(tmp_path, broker) as place, place.bridge() as bridge:
        async with call(stranger, place.url, ssl_context=place.context):
            refused = await asyncio.to_thread(bridge.wait_for_log, "listen.refused")
            await asyncio.sleep(1.2)  # the status of the door is a second old at most
            shown = await status_of(place)
        assert (refused["reason"], refused["app"], refused["address"]) == ("wrong password", "app", "127.0.0.1")
        assert "Refused since the start: wrong password (1)." in shown
        for word in (PASSWORD, stranger.password, "Account bridge"):
            assert word not in bridge.printed


async def test_a_password_changed_in_its_file_is_used_at_the_next_login(tmp_path: Path, broker: PrivateBroker) -> None:
    file = tmp_path / "app.secret"
    file.write_text("f0rmer")
    async with dialled_site(tmp_path, broker) as place:
        del place.environment["BRIDGE_LISTEN_APP_PASSWORD"]
        place.environment["BRIDGE_LISTEN_APP_PASSWORD_FILE"] = str(file)
        async with place.bridge() as bridge:
            pbx = pbx_called("main", 5)
            async with call(pbx, place.url, ssl_context=place.context):
                await asyncio.to_thread(bridge.wait_for_log, "listen.refused")
            file.write_text(PASSWORD)
            await asyncio.sleep(1)  # the pause after a failure
            async with call(pbx, place.url, ssl_context=place.context):
                assert len((await place.witness(until=5)).ids) == 5


async def test_a_certificate_that_is_replaced_is_shown_without_a_restart(tmp_path: Path, broker: PrivateBroker) -> None:
    async with dialled_site(tmp_path, broker) as place, place.bridge() as bridge:
        written(place.authority, tmp_path, "127.0.0.1")
        await asyncio.to_thread(bridge.wait_for_log, "listen.certificate_renewed")
        _, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=place.context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        import hashlib  # noqa: PLC0415 - used once

        assert hashlib.sha256(shown).digest() == fingerprint_of(place.certificate)


async def test_what_is_insecure_on_purpose_is_shown_everywhere(tmp_path: Path, broker: PrivateBroker) -> None:
    async with dialled_site(tmp_path, broker) as place:
        for key in ("CERTIFICATE_FILE", "KEY_FILE"):
            del place.environment[f"BRIDGE_LISTEN_{key}"]
        code, refused = await asyncio.to_thread(run, "run", environment=place.environment)
        assert code == 2
        assert "certificate_file is missing. Without one accounts travel in the clear" in refused.printed
        place.environment |= {
            "BRIDGE_LISTEN_INSECURE": "true",
            "BRIDGE_PBX_NAME": "hq",
            "BRIDGE_PBX_URL": "wss://127.0.0.1:1",
            "BRIDGE_PBX_APP": "app",
            "BRIDGE_PBX_PASSWORD": PASSWORD,
            "BRIDGE_PBX_INSECURE": "true",
        }
        words = ("listen.insecure = true", "pbx.insecure = true")
        _, checked = await asyncio.to_thread(run, "check", environment=place.environment)
        async with place.bridge() as bridge:
            shown = await status_of(place)
            logged = json.dumps(bridge.logs("settings.insecure"))
        for text in (checked.printed, shown, logged):
            assert text.count("INSECURE") == 2
            assert all(word in text for word in words)


async def test_a_new_pbx_waits_for_a_yes_and_one_from_elsewhere_is_told_of(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with dialled_site(tmp_path, broker) as place:
        place.environment["BRIDGE_LISTEN_NEW_PBXS"] = "ask"
        pbx = pbx_called("main", 5)
        async with place.bridge() as bridge:
            calling = asyncio.create_task(keep_calling(pbx, place.url, ssl_context=place.context, pause_seconds=0.2))
            await asyncio.to_thread(bridge.wait_for_log, "listen.not_admitted")
            shown = await status_of(place)
            assert "A new PBX, main of example.com, dials from 127.0.0.1 and waits for your yes" in shown
            assert f"account-bridge admit {MAIN}" in shown
            code, said = await asyncio.to_thread(run, "admit", MAIN, environment=place.environment)
            assert (code, "is let in" in said.printed) == (0, True)
            assert len((await place.witness(until=5)).ids) == 5
            assert "A new PBX" not in await status_of(place)
            code, said = await asyncio.to_thread(run, "admit", "nobody", environment=place.environment)
            assert (code, "waiting: none" in said.printed) == (1, True)
            calling.cancel()
            await asyncio.wait([calling])
            thief = pbx_called("main", 5)
            thief.app_guid = "b" * 32
            async with call(thief, place.url, ssl_context=place.context):
                await asyncio.to_thread(bridge.wait_for_log, "listen.unlike_before")
            shown = await status_of(place)
            assert "dialled with another App object than before" in shown
            await asyncio.to_thread(run, "admit", MAIN, environment=place.environment)
            assert "another App object" not in await status_of(place)
            assert await asyncio.to_thread(bridge.terminate) == 0
