"""What is an endpoint: tables of the good, the bad and the tricks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.addresses import AddressPolicy
from broker.transport.endpoint import Origin, Target, parse_endpoint
from schema.errors import AddressDenied, Rejected

GOOD = [
    ("http://example.com", Origin("http", "example.com", 80), "/"),
    ("https://example.com", Origin("https", "example.com", 443), "/"),
    ("HTTPS://Example.COM/Hook", Origin("https", "example.com", 443), "/Hook"),
    ("http://example.com:8080/a/b?c=d&e=%20", Origin("http", "example.com", 8080), "/a/b?c=d&e=%20"),
    ("http://example.com:/x", Origin("http", "example.com", 80), "/x"),
    ("http://example.com?q", Origin("http", "example.com", 80), "/?q"),
    ("http://example.com./x", Origin("http", "example.com", 80), "/x"),
    ("http://127.0.0.1:9/x", Origin("http", "127.0.0.1", 9), "/x"),
    ("http://[::1]:9/x", Origin("http", "::1", 9), "/x"),
    ("http://[2001:DB8:0::1]/", Origin("http", "2001:db8::1", 80), "/"),
    ("http://localhost:1/", Origin("http", "localhost", 1), "/"),
    ("http://my_service-1:65535/", Origin("http", "my_service-1", 65535), "/"),
    ("https://bücher.example/ü?ö=ä", Origin("https", "xn--bcher-kva.example", 443), "/%C3%BC?%C3%B6=%C3%A4"),
    ("http://\uff11\uff12\uff17\u30020.0.1/", Origin("http", "127.0.0.1", 80), "/"),
    ("http://a.b/'\"<>", Origin("http", "a.b", 80), "/'%22%3C%3E"),
]

BAD = [
    "",
    "example.com",
    "//example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://",
    "http:///path",
    "http://user@example.com/",
    "http://user:secret@example.com/",
    "http://@example.com/",
    "http://example.com/#fragment",
    "http://example.com/#",
    "http://example.com:0/",
    "http://example.com:65536/",
    "http://example.com:-1/",
    "http://example.com:80a/",
    "http://example.com:\uff18\uff10/",
    "http://example.com:999999/",
    "http://exa mple.com/",
    "http://example.com/a b",
    "http://example.com/\r\nX: y",
    "http://example.com/\t",
    " http://example.com/",
    "http://example.com/\x00",
    "http://example.com/\x7f",
    "http://example.com/\x85",
    "http://example.com\\@evil.example/",
    "http://a..b/",
    "http://.a/",
    "http://-a.example/",
    "http://a-.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 127 + "example/",
    "http://a%2eb/",
    "http://[::1/",
    "http://[::1]x/",
    "http://[127.0.0.1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fe80::1%eth0]/",
    "http://::1/",
    "http://a,b/",
    "http://example.com/" + "a" * 2048,
    "http://example.com/\ud800",
]

TRICKS = [
    "127.1",
    "2130706433",
    "0x7f.1",
    "0177.0.0.1",
    "0x7f000001",
    "1.2.3.4.5",
    "256.1.1.1",
    "foo.1",
    "0x",
]


@pytest.mark.parametrize(("url", "origin", "path"), GOOD)
def test_endpoint_is_split_and_normalised(url: str, origin: Origin, path: str) -> None:
    assert parse_endpoint(url) == Target(origin, path)


@pytest.mark.parametrize("url", BAD)
def test_bad_endpoint_is_rejected_naming_its_field(url: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_endpoint(url)
    assert caught.value.field == "endpoint"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("host", TRICKS)
def test_host_that_only_looks_like_a_number_is_denied(host: str) -> None:
    with pytest.raises(AddressDenied) as caught:
        parse_endpoint(f"http://{host}/")
    assert caught.value.field == "endpoint"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://127.0.0.1/", "loopback"),
        ("http://\uff11\uff12\uff17.0.0.1/", "loopback"),
        ("http://[::ffff:10.0.0.1]/", "private"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://example.com:25/", "port 25"),
    ],
)
def test_policy_judges_port_and_literal_at_registration(url: str, fault: str) -> None:
    with pytest.raises(AddressDenied, match=fault) as caught:
        parse_endpoint(url, AddressPolicy(ports=[80, 443]))
    assert caught.value.field == "endpoint"


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://a.b/", "a.b"),
        ("http://a.b:443/", "a.b:443"),
        ("https://a.b:443/", "a.b"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://[::1]/", "[::1]"),
    ],
)
def test_authority_is_the_host_header(url: str, authority: str) -> None:
    assert parse_endpoint(url).origin.authority == authority


@given(st.text(), st.text(), st.text())
def test_nothing_parsed_can_break_out_of_a_request_head(host: str, path: str, query: str) -> None:
    try:
        target = parse_endpoint(f"http://{host}/{path}?{query}")
    except Rejected:
        return
    for text in (target.path, target.origin.authority):
        assert text.isascii()
        assert all("!" <= char <= "~" for char in text)
