from ipaddress import ip_address
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from payment_service.outbound.addresses import DEVELOPMENT, PRODUCTION, IPAddress, is_public, read_url

from .hostile import HOSTILE

OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700::1111",
    "2a02:6b8::1",
]
INSIDE = [
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.255",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.255.255",
    "192.175.48.1",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.255",
    "203.0.113.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1:ffff::1",
    "100::1",
    "2001::1",
    "2001:1ff:ffff::1",
    "2001:db8:ffff::1",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff:fff::1",
    "4000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", OUTSIDE)
def test_ordinary_address_is_outside(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", INSIDE)
def test_special_address_is_not_outside(address: str) -> None:
    assert not is_public(ip_address(address))


def _special(version: Literal[4, 6]) -> st.SearchStrategy[IPAddress]:
    """Addresses at random, and those beside the borders of the networks that matter."""
    borders = [
        ip_address(int(ip_address(address)) + step)
        for address in [*OUTSIDE, *INSIDE]
        if ip_address(address).version == version
        for step in (-1, 0, 1)
        if 0 <= int(ip_address(address)) + step < 2 ** (32 if version == 4 else 128)
    ]
    return st.one_of(st.ip_addresses(v=version), st.sampled_from([one for one in borders if one.version == version]))


@given(st.one_of(_special(4), _special(6)))
def test_nothing_is_outside_that_python_takes_for_special(address: IPAddress) -> None:
    if is_public(address):
        assert address.is_global
        assert not any((address.is_multicast, address.is_reserved, address.is_link_local, address.is_loopback))


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("https://shop.example.kz", "shop.example.kz", 443, "/", "shop.example.kz"),
        ("HTTPS://Shop.Example.KZ/Hook", "shop.example.kz", 443, "/Hook", "shop.example.kz"),
        ("https://shop.example.kz./hook", "shop.example.kz", 443, "/hook", "shop.example.kz"),
        ("https://shop.example.kz:443/", "shop.example.kz", 443, "/", "shop.example.kz"),
        ("https://shop.example.kz:8443/a/../b", "shop.example.kz", 8443, "/a/../b", "shop.example.kz:8443"),
        ("https://shop.example.kz?a=1&b[]=2", "shop.example.kz", 443, "/?a=1&b[]=2", "shop.example.kz"),
        ("https://shop.example.kz/%D1%85?%20", "shop.example.kz", 443, "/%D1%85?%20", "shop.example.kz"),
        ("https://shop.example.kz/@a:b//c", "shop.example.kz", 443, "/@a:b//c", "shop.example.kz"),
        ("https://ЦВЕТЫ.қаз/", "xn--b1ag3bn2a.xn--80ao21a", 443, "/", "xn--b1ag3bn2a.xn--80ao21a"),
        ("https://faß.example.de/", "xn--fa-hia.example.de", 443, "/", "xn--fa-hia.example.de"),
        ("https://8.8.8.8:8443/", "8.8.8.8", 8443, "/", "8.8.8.8:8443"),
        ("https://[2A02:6B8:0::1]:8443/", "2a02:6b8::1", 8443, "/", "[2a02:6b8::1]:8443"),
        ("https://1password.example.0x.kz/", "1password.example.0x.kz", 443, "/", "1password.example.0x.kz"),
    ],
)
def test_ordinary_url_is_read(url: str, host: str, port: int, target: str, authority: str) -> None:
    read = read_url(url, PRODUCTION)
    assert (read.host, read.port, read.target, read.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("shop.example.kz/hook", "complete"),
        ("http://shop.example.kz/", "begin with https://"),
        ("https://key@shop.example.kz/", "user name"),
        ("https://shop.example.kz/#hook", "fragment"),
        ("https://shop.example.kz/a b", "percent-encoded"),
        ("https://shop.example.kz:22/", "port must be 443"),
        ("https://shop.example.kz:port/", "cannot be read"),
        ("https://192.168.1.1/", "not on the public Internet"),
        ("https://127.1/", "unusual way"),
        ("https://shop/", "full name"),
        ("https://shop.local/", "only inside"),
        ("https://\u202eshop.kz/", "not a name that can exist"),
    ],
)
def test_refusal_says_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_url(url, PRODUCTION)


@pytest.mark.parametrize("url", [url for urls in HOSTILE.values() for url in urls if not url.startswith("http://")])
def test_development_opens_nothing_but_this_machine(url: str) -> None:
    try:
        read = read_url(url, DEVELOPMENT)
    except ValueError:
        return
    assert read.host == "localhost" or (read.address and read.address.is_loopback)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8015/", "http://[::1]/", "http://localhost:9000/", "https://localhost/"]
)
def test_development_may_call_this_machine(url: str) -> None:
    assert read_url(url, DEVELOPMENT).host


URLS = st.one_of(
    st.text(),
    st.builds(
        "https://{}{}{}".format,
        st.text(max_size=30),
        st.sampled_from(["", ":443", ":8443", ".", "/", "?"]),
        st.text(max_size=30),
    ),
    st.from_regex(r"(?i)https://[\w.\[\]:%-]{1,40}(:[0-9]{1,6})?(/[ -~]{0,10})?", fullmatch=True),
)


@given(URLS)
@example("https://a.b/?")
def test_any_text_is_read_in_one_way_or_refused_with_a_sentence(url: str) -> None:
    try:
        read = read_url(url, PRODUCTION)
    except ValueError:
        with pytest.raises(ValueError, match=r"^The URL.*\.$"):
            read_url(url, PRODUCTION)
        return
    assert read.host.isascii()
    assert not set(f"{read.host}{read.target}") & set(" \t\r\n\x00\\@#") - {"@"}
    assert read_url(f"{read.scheme}://{read.authority}{read.target}", PRODUCTION) == read
