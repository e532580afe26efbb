"""Which addresses may be dialled: tables for the rules, properties for what must hold for every address."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.addresses import (
    DENIED,
    NEVER,
    AddressPolicy,
    PortRange,
    judge,
    judge_all,
    judge_own,
    judge_port,
    unwrap,
)
from schema.errors import Rejected

PUBLIC = AddressPolicy()

FINE = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2003::1",
    "3ffe:ffff::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]

REFUSED = [
    ("0.0.0.0", "this network"),
    ("0.255.255.255", "this network"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "carrier"),
    ("100.127.255.255", "carrier"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.255", "loopback"),
    ("169.254.0.1", "link-local"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.1", "protocols"),
    ("192.0.0.192", "metadata"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.0.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("198.19.255.255", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("100.100.100.200", "metadata"),
    ("168.63.129.16", "metadata"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "this network"),
    ("::7f00:1", "loopback"),
    ("::8.8.8.8", "not global unicast"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:100.64.0.1", "carrier"),
    ("::ffff:169.254.169.254", "link-local"),
    ("::ffff:0:127.0.0.1", "loopback"),
    ("64:ff9b::169.254.169.254", "link-local"),
    ("64:ff9b::10.0.0.1", "private"),
    ("64:ff9b:1::8.8.8.8", "network of its own"),
    ("100::1", "discard"),
    ("1fff::1", "not global unicast"),
    ("2001::1", "Teredo"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
    ("2001:10::1", "protocols"),
    ("2001:1ff:ffff::1", "protocols"),
    ("2001:db8::1", "documentation"),
    ("2002:a9fe:a9fe::1", "link-local"),
    ("2002:7f00:1::", "loopback"),
    ("2002:808:808::1", "6to4"),
    ("3fff::1", "documentation"),
    ("3fff:fff::1", "documentation"),
    ("2606:4700::5efe:10.0.0.1", "private"),
    ("2606:4700::200:5efe:a9fe:a9fe", "link-local"),
    ("fd00:ec2::23", "metadata"),
    ("fd00:c1::a9fe:a9fe", "metadata"),
    ("fd00:42::42", "metadata"),
    ("4000::1", "not global unicast"),
    ("5f00::1", "segment routing"),
    ("fc00::1", "private"),
    ("fd12:3456::1", "private"),
    ("fd00:ec2::254", "metadata"),
    ("fd20:ce::254", "metadata"),
    ("fe80::1", "link-local"),
    ("febf::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("fe80::1%eth0", "interface"),
    ("2606:4700::1%lo", "interface"),
]


@pytest.mark.parametrize("text", FINE)
def test_public_address_may_be_dialled(text: str) -> None:
    assert judge(ip_address(text), PUBLIC) is None


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_address_of_our_own_side_is_refused_with_its_reason(text: str, reason: str) -> None:
    fault = judge(ip_address(text), PUBLIC)
    assert fault is not None
    assert reason in fault


@pytest.mark.parametrize(
    ("allow", "text", "fine"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8", "64:ff9b::127.0.0.1", True),
        ("127.0.0.0/8", "::127.0.0.1", False),
        ("127.0.0.0/8", "2002:7f00:1::", False),
        ("127.0.0.0/8", "::1", False),
        ("::1/128", "::1", True),
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("fc00::/7", "fd12::1", True),
        ("fc00::/7", "fd00:ec2::254", False),
        ("fc00::/7", "fd20:ce::254", False),
        ("0.0.0.0/0", "169.254.169.254", False),
        ("0.0.0.0/0", "::ffff:169.254.169.254", False),
        ("0.0.0.0/0", "168.63.129.16", False),
        ("0.0.0.0/0", "192.168.1.1", True),
        ("::/0", "fe80::1", False),
        ("::/0", "2002:a9fe:a9fe::1", False),
        ("::/0", "64:ff9b::169.254.169.254", False),
        ("::/0", "fec0::1", True),
        ("::/0", "2001:0:a9fe:a9fe::1", False),
        ("::/0", "64:ff9b:1::a9fe:a9fe", False),
        ("::/0", "::ffff:0:169.254.169.254", False),
        ("::/0", "2606:4700::5efe:169.254.169.254", False),
        ("127.0.0.0/8", "2606:4700::5efe:127.0.0.1", True),
    ],
)
def test_allow_list_opens_what_it_names_and_never_the_closed(allow: str, text: str, fine: bool) -> None:
    assert (judge(ip_address(text), AddressPolicy([allow])) is None) is fine


@pytest.mark.parametrize("cidr", [str(network) for network, _ in NEVER] + ["169.254.169.254/32", "fe80::/64"])
def test_link_local_and_metadata_cannot_be_allow_listed(cidr: str) -> None:
    with pytest.raises(Rejected, match="never"):
        AddressPolicy([cidr])


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,127.0.0.0/8"])
def test_allow_list_that_is_no_network_is_rejected(text: str) -> None:
    with pytest.raises(Rejected, match="not a network"):
        AddressPolicy([text])


def test_one_bad_address_rejects_the_whole_name() -> None:
    good, bad = ip_address("8.8.8.8"), ip_address("10.0.0.1")
    assert judge_all([good, good], PUBLIC) is None
    assert judge_all([good, bad], PUBLIC) == "private"
    assert judge_all([bad, good], PUBLIC) == "private"


@pytest.mark.parametrize(
    ("text", "port", "fine"),
    [
        ("127.0.0.1", 8080, False),
        ("127.9.9.9", 8080, False),
        ("127.0.0.1", 8081, True),
        ("::ffff:127.0.0.1", 8080, False),
        ("64:ff9b::127.0.0.1", 8080, False),
        ("10.0.0.5", 6379, False),
        ("10.0.0.6", 6379, True),
        ("8.8.8.8", 8080, True),
    ],
)
def test_the_brokers_own_ports_are_never_dialled_whatever_is_allowed(
    text: str, port: int, fine: bool
) -> None:
    own = [(ip_network("127.0.0.0/8"), 8080), (ip_network("10.0.0.5/32"), 6379)]
    policy = AddressPolicy(["0.0.0.0/0", "::/0"], own=own)
    assert judge(ip_address(text), policy) is None
    assert (judge_own([ip_address(text)], port, policy) is None) is fine


def test_ports_outside_the_list_are_refused() -> None:
    assert judge_port(25, PUBLIC) is None
    ranges = AddressPolicy(ports=[443, PortRange(1024, 2000)])
    assert [port for port in (442, 443, 444, 1023, 1024, 2000, 2001) if judge_port(port, ranges) is None] == [
        443,
        1024,
        2000,
    ]
    assert judge_port(443, AddressPolicy(ports=[80, 443])) is None
    assert judge_port(25, AddressPolicy(ports=[80, 443])) == "port 25 is not among the allowed ports"


@given(st.ip_addresses(v=4))
def test_every_disguise_is_judged_no_kinder_than_the_address_inside(inner: IPv4Address) -> None:
    fault = judge(inner, PUBLIC)
    number = int(inner)
    disguises = (
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address(number),
    )
    for disguise in disguises:
        assert fault is None or judge(disguise, PUBLIC) is not None
    assert unwrap(disguises[0]) == ("mapped", inner)
    assert unwrap(disguises[2]) == ("6to4", inner)


@given(st.sampled_from([network for network, _ in (*DENIED, *NEVER)]), st.data())
def test_no_address_of_a_listed_network_passes(network: object, data: st.DataObject) -> None:
    address = data.draw(st.ip_addresses(network=str(network)))
    assert judge(address, PUBLIC) is not None


@given(st.sampled_from([network for network, _ in NEVER]), st.data())
def test_no_allow_list_opens_the_closed(network: object, data: st.DataObject) -> None:
    address = data.draw(st.ip_addresses(network=str(network)))
    assert judge(address, AddressPolicy(["0.0.0.0/0", "::/0"])) is not None
