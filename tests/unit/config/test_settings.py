from pathlib import Path

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
