"""What strangers at the door cost; ``python -m tests.hostile`` is the same with ten thousand of them."""

from pathlib import Path

from tests.hostile import LATER_DESCRIPTORS, WAYS, Figures, amid_a_crowd, besieged, play, table
from tests.support.rabbit import PrivateBroker


async def test_strangers_of_every_kind_cost_nothing_that_stays_and_the_pbx_is_served_meanwhile(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    figures = await play(tmp_path, broker, count=20 * len(WAYS), at_once=40)
    assert figures.before is not None
    assert figures.after is not None
    assert figures.strangers == 20 * len(WAYS)
    assert figures.delivered == figures.changes > 0
    assert figures.after.descriptors <= figures.before.descriptors + LATER_DESCRIPTORS
    assert figures.after.memory_mb <= figures.before.memory_mb + 10
    assert figures.log_lines < 100
    assert figures.forged_logins_let_in == 0


async def test_neither_visitors_of_the_page_nor_somebody_with_a_password_keep_pbxs_out_or_pass_unseen(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    figures = Figures()
    await besieged(tmp_path, broker, figures, names=0, flood_bytes=1 << 18)
    page, insider = figures.page, figures.insider
    assert page is not None
    assert page.half_requests > 1000
    assert page.descriptors < 250
    assert None not in {page.pbx_seconds, page.livez_seconds, page.health_check_seconds, page.status_seconds}
    assert page.guesses_looked_at < 24 * 10
    assert insider is not None
    assert insider.in_capitals == "the same PBX"
    assert "with another App object than before" in insider.takeover
    assert figures.flood["silent_seconds_at_most"] < figures.flood["silent_seconds_at_most_before"] + 0.5
    assert figures.flood["flood_seconds"] < 5
    assert figures.flood["memory_mb_more"] < 20


async def test_a_crowd_from_64_addresses_costs_others_little_beside_the_machine_that_they_share(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    crowd = await amid_a_crowd(tmp_path, broker, rounds=1, seconds=6)
    assert crowd.failed == 0
    assert crowd.refused > 0
    assert crowd.memory_mb[1] <= crowd.memory_mb[0] + 20
    # Of a minute on a shared machine no p99 is worth anything: the bound of 1.5 is for `python -m tests.hostile`.
    assert crowd.dial_ms[2]["p50"] < 5 * crowd.dial_ms[1]["p50"]
    assert crowd.status_ms[2]["p50"] < 5 * crowd.status_ms[1]["p50"]
    assert "p99 ratio" in table(Figures(crowd=crowd))
