# pibuild. `make` alone lists the targets. Every target that works installs what it needs on Debian 12/13 and Ubuntu 24.04;
# what is there already is not installed again.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help image boot netboot check lint unit test fuzz torture bench clean deb install uninstall environment system

RECIPE ?= recipes/golden.yaml
IMAGE ?= output/$(basename $(notdir $(RECIPE)))/latest
NODES ?= yellow3
DEST ?= /var/tmp/pibuild-netboot
PREFIX ?= /usr/local
# More options for the command behind image, boot, test, unit and bench: make test ARGS='-k boot'
ARGS ?=
PEERS ?=
EMULATION ?=
N ?= 10000
torture: N = 1000
SEED ?=

# sudo forgets the environment: these pass.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=CI,PIBUILD_CACHE,PIBUILD_DEBUG,http_proxy,https_proxy,no_proxy)
BIN := .venv/bin

PACKAGES := \
	apache2-utils bmap-tools ca-certificates debian-archive-keyring dmsetup dosfstools e2fsprogs gcc git gpg gpgv iproute2 kpartx libc6-dev \
	libparted-dev mmdebstrap mtools openssh-client openssl pkg-config python3-dev python3-venv qemu-system-arm qemu-user-static \
	qemu-utils restic util-linux xz-utils zstd

# What tests and the netboot test need: file systems, and servers that they run in namespaces of their own. On this
# machine none of the servers starts: not when its package is installed (policy-rc.d, Debian Policy 9.3.3.1), nor with
# the next boot (disabled). `pibuild services apply` enables what it needs.
TEST_PACKAGES := \
	btrfs-progs curl dnsmasq-base isc-dhcp-server kea-dhcp4-server libcap2-bin nfs-common nfs-ganesha nfs-ganesha-vfs nftables \
	rpcbind tftpd-hpa xfsprogs
# What benchmarks compare with.
BENCH_PACKAGES := rsync $(if $(PEERS),mkosi)
WANTED = $(PACKAGES)
# What builds the Debian package; a test installs it.
DEB_PACKAGES := debhelper dh-python dpkg-dev fakeroot lintian python3 python3-click
deb: WANTED = $(DEB_PACKAGES)
unit torture bench netboot: WANTED = $(PACKAGES) $(TEST_PACKAGES)
test: WANTED = $(PACKAGES) $(TEST_PACKAGES) $(DEB_PACKAGES)
bench: WANTED += $(BENCH_PACKAGES)
SERVERS := isc-dhcp-server kea-dhcp4-server nfs-ganesha rpcbind rpcbind.socket tftpd-hpa
POLICY := /usr/sbin/policy-rc.d
QUIET_SERVERS = if [ ! -e $(POLICY) ]; then trap '$(SUDO) rm -f $(POLICY)' EXIT; \
	printf '\#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin $(POLICY); fi;

# The first Python that is new enough, can make a virtual environment and has its headers (pyparted is compiled). The
# system's comes first; a shim of a version manager may stand before it on PATH and lack ensurepip.
FIND_PYTHON = for python in $(PYTHON) /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys, sysconfig, pathlib, ensurepip, venv; sys.exit(sys.version_info < (3, 11) or not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' \
			2>/dev/null; then chosen=$$python; break; fi; done; \
	[ -n "$${chosen:-}" ] || { echo 'error: no Python >= 3.11 with venv and headers here; make PYTHON=/path/to/python3 …' >&2; exit 3; }

# A run as root leaves nothing behind in the checkout that its owner could not write to afterwards.
AS_ROOT := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/pibuild-hypothesis

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do \
		printf '  make %-11s %s\n' "$$target" "$$text"; done
	@printf '\n  RECIPE=%s   NODES=%s   ARGS=more options for the command behind a target\n' '$(RECIPE)' '$(NODES)'

image: environment ## build RECIPE into output/NAME/latest
	@$(AS_ROOT) $(CURDIR)/$(BIN)/pibuild build $(RECIPE) $(ARGS)

boot: environment ## boot IMAGE (what RECIPE built) under QEMU and print the verdict
	@$(BIN)/pibuild boot $(IMAGE) $(ARGS)

netboot: environment ## explode IMAGE for NODES, boot them over the network with real servers, and print the verdict
	@$(AS_ROOT) $(CURDIR)/$(BIN)/pibuild explode $(addprefix --node ,$(NODES)) --image $(IMAGE) --dest $(DEST)
	@$(AS_ROOT) $(CURDIR)/$(BIN)/pibuild boot $(addprefix --node ,$(NODES)) --netboot --dest $(DEST) $(ARGS)

check: lint unit ## ruff, mypy --strict and the unit tests: under a minute, no root, no network

lint: environment
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: environment
	$(BIN)/pytest tests/unit $(ARGS)

test: environment ## every test: root, network, and machines booted under QEMU
	$(AS_ROOT) $(CURDIR)/$(BIN)/python -m tests.side_by_side -p no:cacheprovider --durations=15 $(ARGS)

fuzz: environment ## N damaged inputs for every parser of foreign input; what is not survived is kept in tests/crashes
	@PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m tests.fuzz --number $(N) $(ARGS)

torture: environment ## N commands killed at random moments, with full disks and two at once: nothing lost, nothing left; SEED=
	@$(AS_ROOT) $(CURDIR)/$(BIN)/python -m tests.torture $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: environment ## measure builds and explode; EMULATION=1 also what emulation costs, PEERS=1 also mkosi
	@$(AS_ROOT) $(CURDIR)/$(BIN)/python -m bench $(if $(EMULATION),--also emulation) $(if $(PEERS),--also peers) $(ARGS)

clean: ## remove output/ and .venv; the layer cache stays (sudo rm -r /var/cache/pibuild)
	$(SUDO) find output -mindepth 1 ! -name .gitkeep -delete
	$(SUDO) rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

deb: system ## the Debian package, in output/
	@packaging/deb output

install: system ## install this checkout for all users, below PREFIX: then `sudo pibuild` works
	@$(FIND_PYTHON); $(SUDO) packaging/install "$$chosen" $(PREFIX)

uninstall: ## take away what `make install` installed
	@$(SUDO) packaging/install --remove $(PREFIX)

environment: system .venv/.installed ## install the system packages and .venv, nothing else

# One dpkg query when all is there; apt only for what is missing. A foreign source that does not answer is apt's warning to
# give: only a package that cannot be installed stops.
system:
	@command -v dpkg-query >/dev/null || { echo 'error: this Makefile installs with apt: Debian 12/13 or Ubuntu 24.04' >&2; exit 3; }
	@there=" $$({ dpkg-query -W -f='$${db:Status-Status} $${Package}\n' $(WANTED) 2>/dev/null || :; } | sed -n 's/^installed //p' | tr '\n' ' ')"; \
	missing=(); for package in $(WANTED); do [[ "$$there" == *" $$package "* ]] || missing+=("$$package"); done; \
	if (( $${#missing[@]} )); then \
		echo "installing: $${missing[*]}"; \
		$(SUDO) apt-get update -qq || echo 'warning: apt-get update failed: going on with the package lists there are' >&2; \
		$(QUIET_SERVERS) $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -yqq -o DPkg::Use-Pty=0 --no-install-recommends "$${missing[@]}"; \
		for server in $(SERVERS); do if [[ " $${missing[*]} " == *" $${server%.*} "* ]] && command -v systemctl >/dev/null; then \
			$(SUDO) systemctl --quiet disable "$$server" || :; fi; done; \
	fi

.venv/.installed: pyproject.toml | system
	@$(FIND_PYTHON); \
	echo "virtual environment: $$chosen ($$("$$chosen" -V))"; \
	rm -rf .venv; "$$chosen" -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@
