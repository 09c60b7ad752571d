"""The page in a real browser: what it says, that it lives, and that nothing a PBX sends can harm it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from bridge.model import SourceName
from bridge.observability.component_status import Level
from bridge.observability.source_status import LastChange, WalkProgress
from bridge.observability.status import BridgeStatus
from bridge.observability.web.server import Views, serve
from bridge.store.records import KeptEvent
from tests.support.awkward import AWKWARD
from tests.support.boards import board as board_at
from tests.support.browser import CONTRAST, look
from tests.support.events import LINEAGE

LOCAL = "127.0.0.1"
TOKEN = "pl4nted-s3cret-of-the-page"


@pytest.fixture
def board() -> BridgeStatus:
    return well()


def well(*names: str) -> BridgeStatus:
    now = datetime.now(UTC)
    made = board_at(now, *(names or ("hq", "branch")))
    made.started_at = now - timedelta(days=3)
    made.published = 4711
    made.broker.last_progress_at = now - timedelta(seconds=4)
    for number, part in enumerate(made.sources.values()):
        part.accounts, part.verified_at, part.deletions = 412 - number, now - timedelta(hours=5), "known"
        part.last_confirm_at = part.last_change_at = now - timedelta(minutes=12)
    first = next(iter(made.sources.values()))
    first.last_change = LastChange(now - timedelta(minutes=12), "Erika Mustermann", "new extension")
    return made


def event(position: int, name: str, *, state: str = "sent", **previous: object) -> KeptEvent:
    now = datetime.now(UTC)
    body = {
        "type": "pbx.account.changed",
        "dataschema": "urn:pbx-account-bridge:account-changed:1",
        "id": str(position),
        "source": "/pbx/hq",
        "sequence": f"{position:020}",
        "lineage": LINEAGE,
        "time": now.isoformat(),
        "data": {
            "change": "updated" if previous else "created",
            "account": {"guid": "g", "display_name": name, "numbers": ["404"]},
            "changed": list(previous),
            "previous": previous,
            "revision": 1,
            "cursor": {},
        },
    }
    made_at = now - timedelta(minutes=position)
    return KeptEvent(100 - position, SourceName("hq"), orjson.dumps(body), made_at, made_at, state)


def views(*events: KeptEvent) -> Views:
    async def recent(limit: int) -> Sequence[KeptEvent]:
        return events[:limit]

    return Views(recent)


PEOPLE = [
    event(1, "Erika Mustermann", numbers=["403"]),
    event(2, "Weiß, Jürgen", display_name="Weiss, Jürgen"),
    event(3, "Ana Ćirić"),
    event(9, "Lager", state="waiting", numbers=[]),
]


@pytest.mark.parametrize(
    ("size", "is_dark"), [("desktop", False), ("phone", False), ("desktop", True), ("phone", True)]
)
async def test_the_first_thing_it_says_is_whether_everything_is_sent(
    board: BridgeStatus,
    size: str,
    is_dark: bool,  # noqa: FBT001
) -> None:
    async with (
        serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port,
        look(f"http://{LOCAL}:{port}/", size, is_dark=is_dark) as seen,
    ):
        await seen.says("Everything sent.", "#lead")
        await seen.says("Erika Mustermann, new extension. Last answer from", "#rest")
        await seen.says("403 → 404", "#changes")
        await seen.shoot(f"well-{size}{'-dark' if is_dark else ''}")
        assert not await seen.overflows()
        assert not seen.complaints
        assert all(url.startswith(f"http://{LOCAL}:{port}/") for url in seen.asked), "nothing from anywhere else"


async def test_it_updates_itself_and_keeps_what_the_reader_opened(board: BridgeStatus) -> None:
    async with (
        serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port,
        look(f"http://{LOCAL}:{port}/") as seen,
    ):
        await seen.says("Everything sent.", "#lead")
        await seen.page.locator("summary").first.click()
        board.sources["hq"].last_change = LastChange(datetime.now(UTC), "Ana Ćirić", "new account")
        board.unsent = 3
        await seen.says("3 events wait to be sent.", "#lead")
        await seen.says("Ana Ćirić, new account.", "#rest")
        assert await seen.page.locator("details").first.get_attribute("open") is not None


async def test_names_are_text_whatever_is_in_them(board: BridgeStatus) -> None:
    board.sources["hq"].last_change = LastChange(datetime.now(UTC), AWKWARD[0], "new display name")
    events = [event(number, name, display_name=AWKWARD[-number]) for number, name in enumerate(AWKWARD, start=1)]
    async with serve(board, host=LOCAL, port=0, views=views(*events)) as port:
        for size in ("desktop", "phone"):
            async with look(f"http://{LOCAL}:{port}/", size) as seen:
                await seen.says("<b>Erika</b>", "#changes")
                await seen.says("<b>Erika</b>", "#rest")
                await seen.says("شركة الاتصالات العربية المتحدة", "#changes")
                await seen.says("👩\u200d👩\u200d👧\u200d👦 Familie", "#changes")
                await seen.shoot(f"awkward-{size}")
                assert await seen.page.locator("main img, main b, main script").count() == 0
                assert await seen.page.title() == "Account bridge"
                assert not await seen.overflows()
                assert not seen.complaints
                high = await seen.page.evaluate("document.documentElement.scrollHeight")
                assert high < 6000, "64 KiB in a name do not bury the rest"


async def test_a_card_says_what_a_walk_did_not_see_and_when_that_is_decided(board: BridgeStatus) -> None:
    now = datetime.now(UTC)
    hq, branch = board.sources["hq"], board.sources["branch"]
    hq.accounts, hq.absent, hq.deletions_held, hq.second_look_at = 250, 50, 30, now + timedelta(minutes=9)
    branch.verified_at = now + timedelta(days=1500)
    async with (
        serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port,
        look(f"http://{LOCAL}:{port}/", "desktop") as seen,
    ):
        for words in ("Match", "200", "20; a second walk at", "decides", "Deletions held", "30"):
            await seen.says(words, "#cards")
        await seen.says("in the future: the clock was wrong when it was written", "#cards")
        assert not await seen.overflows()
        assert not seen.complaints


async def test_problems_stand_on_top_in_words(board: BridgeStatus) -> None:
    now = datetime.now(UTC)
    board.sources["branch"].failed(
        "wss://branch.example.com refused the login of app 'acct-bridge': the Name or Password of the App object in "
        "the PBX differs from the configured one",
        Level.ERROR,
        now - timedelta(minutes=20),
        cause="pbx_refused_login",
    )
    board.broker.set_doing("blocked: the broker has a memory or disk alarm", Level.WARN, now - timedelta(minutes=7))
    board.sources["hq"].walk = WalkProgress(now - timedelta(hours=1), now - timedelta(minutes=8), 214, 412)
    board.unsent, board.held, board.parked, board.in_doubt = 1234, 4, 1, 256
    board.oldest_unsent_at = now - timedelta(minutes=7)
    board.sources["hq"].unsent, board.sources["hq"].in_doubt = 1234, 256
    async with serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port:
        for size, is_dark in (("desktop", False), ("phone", False), ("desktop", True)):
            async with look(f"http://{LOCAL}:{port}/", size, is_dark=is_dark) as seen:
                await seen.says("branch is not read; 1238 events wait to be sent.", "#lead")
                for words in (
                    "refused the login of app 'acct-bridge'",
                    "memory or disk alarm",
                    "The full walk is stuck: 214 accounts",
                    "The oldest event has waited for 7 min",
                    "account-bridge parked",
                ):
                    await seen.says(words, "#problems")
                await seen.says("Full walk, stuck: 214 of about 412 accounts", "#cards")
                await seen.says("Needs attention", "#level")
                first = seen.page.locator("#problems article").first
                assert await first.get_attribute("data-level") == "error", "the worst comes first"
                await seen.shoot(f"problems-{size}{'-dark' if is_dark else ''}")
                assert not await seen.overflows()
                assert not seen.complaints


async def test_it_says_so_when_the_bridge_is_gone_and_when_it_is_back(board: BridgeStatus) -> None:
    async with serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port:
        looking = look(f"http://{LOCAL}:{port}/")
        seen = await looking.__aenter__()
        await seen.says("Everything sent.", "#lead")
    try:
        await seen.says("No answer from the bridge since", "#gone")
        await seen.shoot("gone-desktop")
        assert await seen.page.title() == "No answer · Account bridge"
        async with serve(board, host=LOCAL, port=port, views=views(*PEOPLE)):
            await seen.page.locator("#gone").wait_for(state="hidden", timeout=15_000)
            await seen.says("All well", "#level")
    finally:
        await looking.__aexit__(None, None, None)


async def test_everything_can_be_done_by_keyboard(board: BridgeStatus) -> None:
    async with (
        serve(board, host=LOCAL, port=0, views=views(*PEOPLE), sample_seconds=0.05) as port,
        look(f"http://{LOCAL}:{port}/") as seen,
    ):
        await seen.says("403 → 404", "#changes")
        focus = "document.activeElement.closest('.skip, summary, [name=span], .plot, nav a')?.className ?? ''"
        reached = []
        for _ in range(12):
            await seen.page.keyboard.press("Tab")
            reached.append(await seen.page.evaluate("document.activeElement.tagName"))
            if await seen.page.evaluate(focus) == "plot":
                break
        assert reached[:3] == ["A", "SUMMARY", "SUMMARY"], "the way to the PBXs, then their cards"
        assert "INPUT" in reached
        await seen.page.keyboard.press("ArrowLeft")
        outputs = seen.page.locator("figcaption output")
        assert " changes" in (await outputs.first.text_content() or "")
        assert ":" in (await outputs.first.text_content() or ""), "with its time"
        await seen.page.keyboard.press("Escape")
        await seen.page.locator("summary").first.focus()
        await seen.page.keyboard.press("Enter")
        assert await seen.page.locator("details").first.get_attribute("open") is not None
        await seen.page.locator("input[value=day]").focus()
        await seen.page.keyboard.press("Space")
        await seen.says("24 h ago", "#charts")


@pytest.mark.parametrize("is_dark", [False, True])
async def test_every_text_stands_out_from_what_is_behind_it(board: BridgeStatus, is_dark: bool) -> None:  # noqa: FBT001
    """WCAG 2 AA: 4.5 to 1."""
    for number, level in enumerate((Level.ERROR, Level.WARN)):
        list(board.sources.values())[number].failed("away", level, datetime.now(UTC))
    board.full = "the outbox is full"
    async with (
        serve(board, host=LOCAL, port=0, views=views(*PEOPLE)) as port,
        look(f"http://{LOCAL}:{port}/", is_dark=is_dark) as seen,
    ):
        await seen.says("403 → 404", "#changes")
        found = await seen.page.evaluate(
            CONTRAST, "p, dt, dd, h1, h2, h3, bdi, time, span, summary, a, ins, del, output"
        )
        assert len(found) > 60
        assert [pair for pair in found if pair[0] < 4.5] == []


async def test_a_thousand_pbxs_do_not_bury_the_one_that_is_ill() -> None:
    many = well(*(f"site-{number:04}" for number in range(1000)))
    many.sources["site-0777"].failed("no connection to it", Level.WARN, datetime.now(UTC))
    async with (
        serve(many, host=LOCAL, port=0, views=views()) as port,
        look(f"http://{LOCAL}:{port}/", "phone") as seen,
    ):
        await seen.says("no connection to it", "#problems")
        await seen.says("None are kept yet.")
        assert await seen.page.locator(".card").count() == 12
        assert await seen.page.locator(".card h3").first.text_content() == "site-0777"
        await seen.page.locator("#filter").fill("site-0042")
        assert await seen.page.locator(".card h3").all_text_contents() == ["site-0042"]
        await seen.page.locator("#filter").fill("")
        await seen.page.locator("#all").click()
        await seen.page.locator(".card").nth(999).wait_for()
        assert not seen.complaints


async def test_where_a_token_is_wanted_the_page_asks_for_it_once(board: BridgeStatus) -> None:
    async with (
        serve(board, host=LOCAL, port=0, token=TOKEN, views=views(*PEOPLE)) as port,
        look(f"http://{LOCAL}:{port}/", "phone") as seen,
    ):
        await seen.shoot("login-phone")
        await seen.page.keyboard.type("wrong")
        await seen.page.keyboard.press("Enter")
        await seen.page.locator("#token").fill(TOKEN)
        await seen.page.keyboard.press("Enter")
        await seen.says("Everything sent.", "#lead")
        assert TOKEN not in seen.page.url
        assert TOKEN not in await seen.page.evaluate("document.cookie")
        await seen.page.reload()
        await seen.says("Everything sent.", "#lead")


async def test_the_charts_draw_what_happened(board: BridgeStatus) -> None:
    async with serve(board, host=LOCAL, port=0, views=views(*PEOPLE), sample_seconds=0.02) as port:
        for step in range(60):
            board.sources["hq"].changes += step % 7
            board.unsent = max(0, 40 - step)
            board.oldest_unsent_at = datetime.now(UTC) - timedelta(seconds=board.unsent) if board.unsent else None
            await asyncio.sleep(0.02)
        for size in ("desktop", "phone"):
            async with look(f"http://{LOCAL}:{port}/", size) as seen:
                await seen.page.locator(".bars").wait_for(state="attached")
                await seen.page.locator(".plot").nth(1).hover(position={"x": 5, "y": 5})
                await seen.shoot(f"charts-{size}")
                label = await seen.page.locator(".plot").nth(1).get_attribute("aria-label")
                assert label is not None
                assert "Waiting to be sent in the last hour: now 0 waiting, at most" in label
