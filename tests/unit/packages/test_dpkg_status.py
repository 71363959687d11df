"""dpkg's database is read as dpkg writes it."""

from builder.packages.dpkg_status import Package, paragraphs, parse_status

STATUS = """\
Package: zlib1g
Status: install ok installed
Priority: required
Installed-Size: 170
Architecture: arm64
Multi-Arch: same
Source: zlib
Version: 1:1.3.dfsg+really1.3.1-1+b1
Description: compression library - runtime
 zlib is a library implementing the deflate compression method
 .
 Version: not a field

Package: held
Status: hold ok installed
Architecture: all
Source: held-source (2.0)
Version: 2.0+b3
Conffiles:
 /etc/held 0123456789abcdef

Package: half
Status: install ok half-configured
Architecture: arm64
Version: 1
Installed-Size: unknown

Package: removed
Status: deinstall ok config-files
Version: 3

Package: never
Status: unknown ok not-installed
"""


def test_packages() -> None:
    assert parse_status(STATUS) == (
        Package(
            name="half",
            version="1",
            architecture="arm64",
            size=0,
            source="half",
            source_version="1",
            state="half-configured",
        ),
        Package(name="held", version="2.0+b3", architecture="all", size=0, source="held-source", source_version="2.0"),
        Package(
            name="zlib1g",
            version="1:1.3.dfsg+really1.3.1-1+b1",
            architecture="arm64",
            size=170 * 1024,
            source="zlib",
            source_version="1:1.3.dfsg+really1.3.1-1+b1",
        ),
    )


def test_nothing() -> None:
    assert parse_status("") == ()
    assert parse_status("garbage without a colon\n\n\n:\n") == ()


def test_paragraphs_take_first_lines() -> None:
    assert list(paragraphs("A: 1\n more\nB:\n x\n \nC: 3\n")) == [{"a": "1", "b": ""}, {"c": "3"}]
