from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.wire import messages as m


def test_no_repr_shows_what_a_row_told_or_how_we_proved_ourselves() -> None:
    told = m.AccountRow(Row(Cursor(usn=Token('"1"')), AccountGuid("x"), "x", {"pwd": "geheim"}))
    assert "geheim" not in repr(told)
    assert "dddd" not in repr(m.AppLogin("app", "d" * 64))
