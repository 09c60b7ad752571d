from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bridge import cloudevents
from tests.support.events import change


@given(st.text(min_size=1, max_size=40), st.integers(min_value=1))
def test_an_id_is_the_name_based_uuid_of_what_identifies_the_change(account: str, usn: int) -> None:
    """RFC 9562, version 5, as any other program would make it."""
    told = change(account.encode(errors="replace").decode(), usn=usn)
    namespace = uuid5(NAMESPACE_URL, "urn:pbx-account-bridge:event")
    name = orjson.dumps(["hq", '"g"', told.account["guid"], str(usn), str(usn), "created"])
    identity = cloudevents.event_id(told)
    assert identity == str(uuid5(namespace, name.decode()))
    assert UUID(identity).version == 5
