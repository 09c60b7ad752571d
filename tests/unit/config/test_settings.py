from pathlib import Path

from bridge.security.secret import scrub
from tests.support.settings import MINIMUM, load, mistakes, without_broker


def test_two_pbxs_of_one_name_are_refused(tmp_path: Path) -> None:
    one = "[[pbx]]\nname = 'hq'\nurl = 'ws://x'\napp = 'a'\npassword = 'p'\n"
    told = mistakes("[rabbitmq]\nurl = 'amqp://x/'\n" + one + one, tmp_path)
    assert told == ["settings: two PBXs are called 'hq'; each needs a name of its own"]


def test_no_secret_is_in_anything_that_is_shown(tmp_path: Path) -> None:
    settings = load(MINIMUM)
    shown = f"{settings!r} {settings} {settings.redacted()} {settings.pbx[0].secret!r}"
    told = mistakes("", tmp_path, {**MINIMUM, "BRIDGE_PBX_URL": "http://x:pl4nted-s3cret@y"})
    assert "s3cret" not in shown
    assert "s3cret" not in "".join(told)


def test_everything_insecure_is_told(tmp_path: Path) -> None:
    settings = without_broker(
        tmp_path,
        '[listen]\ninsecure = true\n[[listen.app]]\nname = "a"\npassword = "x"\n[rabbitmq]\ninsecure = true\n'
        '[[pbx]]\nname = "hq"\nurl = "ws://pbx.example"\napp = "a"\npassword = "x"\n'
        '[[pbx]]\nname = "other"\nurl = "wss://pbx.example"\napp = "a"\npassword = "x"\ninsecure = true\n',
    )
    told = list(settings.insecurities())
    assert len(told) == 4
    for word in ("listen.insecure", "rabbitmq.insecure", "PBX hq is talked to without TLS", "PBX other"):
        assert any(word in sentence for sentence in told)


def test_a_password_in_any_url_is_shown_nowhere() -> None:
    settings = load(
        {
            **MINIMUM,
            "BRIDGE_PBX_URL": "ws://u:pl4nted-1@pbx/",
            "BRIDGE_TRACES_ENDPOINT": "http://u:pl4nted-2@collector:4318/?key=pl4nted-3",
            "BRIDGE_RABBITMQ_STREAM_URL": "rabbitmq-stream://u:pl4nted-4@h,rabbitmq-stream://v:pl4nted-5@i",
        }
    )
    shown = f"{settings.redacted()} {list(settings.insecurities())}"
    assert "pl4nted" not in shown
    assert "ws://u:***@pbx/" in shown
    assert "pl4nted" not in scrub("InvalidURI: ws://u:pl4nted-1@pbx/ pl4nted-2 pl4nted-3")


def test_a_name_that_is_the_password_too_is_shown_as_a_name() -> None:
    settings = load({**MINIMUM, "BRIDGE_PBX_APP": "Us3rs-1", "BRIDGE_PBX_PASSWORD": "Us3rs-1"})
    settings.pbx[0].secret.reveal()
    assert scrub("logged in as Us3rs-1") == "logged in as Us3rs-1"
    assert settings.redacted()["pbx"][0]["password"] == "***"
