import pytest

from bridge.security.database_url import read_database_url
from bridge.security.urls import secrets_in


def test_several_hosts_stand_in_one_url_and_the_password_in_none_that_is_shown() -> None:
    url = read_database_url("postgresql://bridge:p%40ss-word@db1,db2:5433,[::1]/accounts")
    assert url.hosts == [("db1", 5432), ("db2", 5433), ("::1", 5432)]
    assert str(url) == "postgresql://bridge@db1:5432,db2:5433,[::1]:5432/accounts"
    assert "p@ss-word" not in repr(url)
    assert url.parameters()["password"] == "p@ss-word"
    assert (url.parameters()["host"], url.parameters()["port"]) == ("db1,db2,::1", "5432,5433,5432")


def test_a_database_elsewhere_has_to_prove_who_it_is_unless_told_otherwise() -> None:
    url = read_database_url("postgresql://bridge:x@db.example.com/bridge")
    assert (url.parameters()["sslmode"], url.parameters()["sslrootcert"]) == ("verify-full", "system")
    assert url.insecurity == ""
    own = read_database_url("postgresql://bridge:x@db.example.com/bridge?sslrootcert=/etc/ssl/ca.pem")
    assert (own.parameters()["sslmode"], own.parameters()["sslrootcert"]) == ("verify-full", "/etc/ssl/ca.pem")
    assert "sslmode" not in read_database_url("postgresql://bridge:x@127.0.0.1/bridge").parameters()


@pytest.mark.parametrize(
    ("mode", "words"), [("disable", "without TLS"), ("prefer", "without TLS"), ("require", "whoever answers")]
)
def test_what_is_insecure_is_said(mode: str, words: str) -> None:
    url = read_database_url(f"postgresql://bridge:x@db.example.com/bridge?sslmode={mode}")
    assert words in url.insecurity
    assert "sslrootcert" not in url.parameters()
    assert read_database_url(f"postgresql://bridge:x@localhost/bridge?sslmode={mode}").insecurity == ""


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://",
        "postgresql://host/database",
        "postgresql://user@host",
        "postgresql://user@host/",
        "postgresql://user@host/one/two",
        "postgresql://user@host:0/x",
        "postgresql://user@,/x",
        "postgresql://user:pa/ss@host/x",
        "postgresql://user:pa@ss@host/x",
        "postgresql://user@host/x?options=-c%20fsync=off",
        "postgresql://user@host/x?sslmode=perhaps",
        "mysql://user@host/x",
        "postgresql://user:a%00b@host/x",
        "postgresql://user:x@host/a%00b?sslmode=verify-full",
    ],
)
def test_what_is_none_or_could_be_two_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|names no|may |has a port|has U") as problem:
        read_database_url(text)
    assert "pa" not in str(problem.value).replace("parts", "").replace("password", "") or "pa" not in text


def test_the_way_tls_is_used_is_no_secret() -> None:
    assert secrets_in("postgresql://bridge:secret@db/bridge?sslmode=verify-full&key=hidden") == ["secret", "hidden"]
