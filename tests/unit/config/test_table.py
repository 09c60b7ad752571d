from pathlib import Path

import pytest

from bridge.errors import BadConfig
from tests.support.settings import MINIMUM, load, without_broker


def test_a_secret_may_be_a_file_which_is_read_at_every_use(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("first\n")
    settings = load({**MINIMUM, "BRIDGE_PBX_PASSWORD_FILE": str(secret)})
    assert settings.pbx[0].secret.reveal() == "first"
    secret.write_text("second\n")
    assert settings.pbx[0].secret.reveal() == "second"


@pytest.mark.parametrize(("text", "words"), [
    ('[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nca_file = "/none"\n', "ca_file: /none cannot be used"),
    ('[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "ab"\n', "must be a SHA-256 fingerprint"),
    (
        f'[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "{"ab" * 32}"\ninsecure = true\n',
        "fingerprint and insecure: only one of them can decide",
    ),
    ('[rabbitmq]\nkey_file = "/none"\n', "certificate_file is missing: key_file alone proves nothing"),
])  # fmt: skip
def test_mistakes_about_tls_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig) as problem:
        without_broker(tmp_path, text)
    assert words in str(problem.value)
