"""Step kind `packages`: Debian packages to install and to remove."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from builder.errors import Problem
from builder.host.hashing import file_digest
from builder.recipe.steps.base import Place, Step, Target
from builder.recipe.steps.fields import source_path, source_problem
from builder.recipe.steps.rootfiles import RootFiles

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy, 5.6.1
_ARMOR, _SECRET = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----BEGIN PGP PRIVATE KEY BLOCK-----"
_PACKET = 0x80  # RFC 4880, 4.2: the bit that every packet's first octet has


def _package(value: str) -> str:
    name, sign, wanted = value.partition("=")
    if sign and _NAME.fullmatch(name):
        hint = f"write {name}; pibuild lock writes the version down, and build --locked holds on to it"
        raise ValueError(f"'{value}': a recipe does not name the version ({wanted})\nhint: {hint}")
    if "/" in value:
        raise ValueError(
            f"'{value}': a recipe does not choose a suite for a package\n"
            f"hint: suite: {value.partition('/')[2]} in a step of its own, for its packages and all that they need"
        )
    if ":" in value:
        raise ValueError(f"'{value}': a recipe does not name an architecture\nhint: write {value.partition(':')[0]}")
    if not _NAME.fullmatch(value) or value.endswith("-"):
        hint = "lower-case letters, digits and + - ."
        raise ValueError(f"'{value}' is not the name of a package\nhint: {hint}")
    return value


def _source_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError(f"'{value}' is not the name of a source\nhint: letters, digits, - and _; it names a file")
    return value


def _word(value: str) -> str:
    if not re.fullmatch(r"[^\s\[\]]+", value):
        raise ValueError(f"'{value}' is not one word")
    return value


def _suite(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_/-]*", value):
        raise ValueError(f"'{value}' is not the name of a suite\nhint: such as trixie-backports")
    return value


def _uri(value: str) -> str:
    if not re.fullmatch(r"(https?://\S+|file:/\S+)", value):
        raise ValueError(f"'{value}' is not an http, https or file address")
    return value


def _selection(value: str) -> str:
    if "\n" in value or len(value.split()) < 3:  # noqa: PLR2004 - package, question, type, then the value
        raise ValueError(f"'{value}' is not 'package question type value', as debconf-set-selections takes it")
    return value


Package = Annotated[str, AfterValidator(_package)]
Word = Annotated[str, AfterValidator(_word)]
Uri = Annotated[str, AfterValidator(_uri)]
Selection = Annotated[str, AfterValidator(_selection)]
_Packages = Annotated[tuple[Package, ...], Field(description="Names of packages.")]


class PackageSource(BaseModel):
    """An archive beside the base's own, trusted for what its key signs. It stays configured in the image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_source_name)] = Field(description="Names the files under /etc/apt.")
    uris: Annotated[tuple[Uri, ...], Field(min_length=1)] = Field(description="Where the archive is.")
    suites: Annotated[tuple[Word, ...], Field(min_length=1)] = Field(
        description="Such as trixie; or a path ending in /."
    )
    components: tuple[Word, ...] = Field(default=(), description="Such as main; none where the suite is a path.")
    key: str = Field(description="The archive's key or keyring, armored or binary, relative to the recipe file.")

    @model_validator(mode="after")
    def _components_fit(self) -> Self:
        exact = all(suite.endswith("/") for suite in self.suites)
        if exact == bool(self.components):
            what = "with a suite that is a path, components are left out" if exact else "components are missing"
            raise ValueError(f"{what}\nhint: components: [main], or a suite that ends in /")
        return self

    def keyring(self, key: bytes) -> str:
        """Return where the key lies in the root."""
        return f"/etc/apt/keyrings/{self.name}.{'asc' if key.lstrip().startswith(_ARMOR) else 'gpg'}"

    def stanza(self, keyring: str) -> str:
        """Return the source in deb822 form (sources.list(5)), signed by a keyring at that path."""
        components = f"Components: {' '.join(self.components)}\n" if self.components else ""
        uris, suites = " ".join(self.uris), " ".join(self.suites)
        return f"Types: deb\nURIs: {uris}\nSuites: {suites}\n{components}Signed-By: {keyring}\n"


class PackagesStep(Step):
    """Install and remove Debian packages. All packages of a recipe are resolved and fetched before any step runs.

    Versions are not written here: `pibuild lock` records them. Recommended packages are left out unless asked for. A
    source's archive is trusted for what its key signs, and stays configured in the image. `debconf` answers are set
    before the packages are installed.

    Of a package that several archives have, apt takes the newest, and one of a backports suite only if nobody else has
    it. `suite` lets a suite win, for this step's packages and for all that they need: one of a source, or of the base's
    own archive, which needs no source.

    ```yaml
    - packages: [openssh-server, restic]        # the same as {install: […]}
    - packages:
        install: [grafana]
        recommends: false
        remove: [nano]
        sources:
          - name: grafana
            uris: [https://example.org/apt]
            suites: [stable]
            components: [main]
            key: ../overlays/keys/grafana.asc   # relative to this recipe file
        debconf:
          - grafana grafana/telemetry boolean false
    ```
    """

    list_field: ClassVar[str] = "install"

    install: _Packages = Field(default=(), description="Packages to install.")
    remove: _Packages = Field(default=(), description="Packages to remove, with their configuration.")
    recommends: bool = Field(default=False, description="Install what they recommend as well.")
    suite: Annotated[str, AfterValidator(_suite)] | None = Field(
        default=None, description="The suite that wins, such as trixie-backports."
    )
    sources: tuple[PackageSource, ...] = Field(default=(), description="Archives beside the base's own.")
    debconf: tuple[Selection, ...] = Field(default=(), description="Answers: package, question, type, value.")

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out a suite that is not given: layers and locks from before there was one stay valid."""
        fields: dict[str, object] = dump(self)
        return {key: value for key, value in fields.items() if key != "suite" or value is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.install or self.remove or self.sources or self.debconf):
            raise ValueError("nothing is given\nhint: give install, remove, sources or debconf")
        return self

    def check(self, at: Place) -> list[Problem]:
        """Find what is given twice, or both ways, and keys that are missing or are none."""
        problems = [
            Problem(message=f"packages: {what} names {name} twice")
            for what, names in (
                ("install", self.install),
                ("remove", self.remove),
                ("sources", [source.name for source in self.sources]),
            )
            for name in sorted({name for name in names if list(names).count(name) > 1})
        ]
        both = sorted(set(self.install) & set(self.remove))
        problems += [Problem(message=f"packages: {name} is to be installed and to be removed") for name in both]
        return problems + [problem for source in self.sources if (problem := _key_problem(at, source))]

    def inputs(self, at: Place) -> object:
        """Return the digests of the sources' keys."""
        return [file_digest(source_path(at, source.key)) for source in self.sources]

    def apply(self, target: Target, at: Place) -> None:
        """Write the sources with their keys, and set the debconf answers. Installing is the engine's business."""
        files = RootFiles(target, at)
        for source in self.sources:
            key = source_path(at, source.key).read_bytes()
            keyring = source.keyring(key)
            files.write(keyring, key, mode=0o644)
            files.write(f"/etc/apt/sources.list.d/{source.name}.sources", source.stanza(keyring).encode(), mode=0o644)
        if self.debconf:
            answers = "".join(f"{answer}\n" for answer in self.debconf)
            target.run(["debconf-set-selections"], input=answers.encode())


def _key_problem(at: Place, source: PackageSource) -> Problem | None:
    missing = source_problem(at, source.key)
    if missing:
        return missing
    key = source_path(at, source.key).read_bytes().lstrip()
    if key.startswith(_SECRET):
        return Problem(
            message=f"{source.key} is a private key", hint="gpg --armor --export KEYID writes the public one"
        )
    if key.startswith(_ARMOR) or (key and key[0] & _PACKET):
        return None
    return Problem(message=f"{source.key} is not an OpenPGP key, armored or binary")
