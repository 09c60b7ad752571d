"""Answers of a PBX as it might write them, value by value: right ones, wrong ones, and ones that nobody would mean."""

import json

from hypothesis import strategies as st

_TEXTS = (
    '"x"',
    '"-"',
    '"--"',
    '"a-B"',
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"a\\udc00"',
    '"\\u001b[31m"',
    '"\x7f"',
)
_NUMBERS = ("1", "-0", "1.50", "1.5", "true", "false", "18446744073709551616", "18446744073709551617", "1e300")
_LONG = (f'"{"x" * 200}"', f'"{"x" * 199}y"', f"0.{'1' * 200}", f"0.{'1' * 199}2", '"' + "\\u0301" * 1500 + '"')
_OTHER = ("null", '""', "[]", "{}", '[["x"]]', '[{"name":null}]', "[" * 300 + "]" * 300, '{"a":{"a":1}}')

scalars = st.sampled_from(_TEXTS + _NUMBERS + _LONG) | st.text(max_size=4).map(json.dumps) | st.integers().map(str)
values = (
    scalars
    | st.sampled_from(_OTHER)
    | st.lists(scalars, max_size=3).map(lambda each: f"[{','.join(each)}]")
    | st.lists(
        st.tuples(st.sampled_from(["name", "email", "dyn", "mode", "text", "app"]), scalars), min_size=1, max_size=3
    ).map(lambda pairs: f"[{_written(pairs)}]")
)
_NAMES = [
    "h323", "sip", "dn", "cn", "e164", "num", "ext", "number", "email", "h323-email", "emails", "grps", "groups", "grp",
    "loc", "pbx", "node", "domain", "config", "hide", "devices", "apps", "apps-my",
]  # fmt: skip


def _written(pairs: list[tuple[str, str]]) -> str:
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in pairs)}}}"


infos = st.lists(st.tuples(st.sampled_from(_NAMES), values), max_size=6).map(_written) | values
answers = st.tuples(
    st.lists(
        st.tuples(st.just("account-guid"), scalars)
        | st.tuples(st.sampled_from(["guid", "usn", "ausn", "account-h323", "deleted", "src"]), scalars | values)
        | st.tuples(st.just("info"), infos),
        max_size=6,
    ),
    scalars,
).map(lambda told: _written([("mt", '"AccountInfoResult"'), ("usn", "1"), ("account-guid", told[1]), *told[0]]))
"""Whole messages; a name may come twice, as JSON allows."""
