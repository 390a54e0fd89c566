# The repository's commands. `make help` lists them.
# Pass arguments to a program with ARGS: make demo ARGS=--selftest

ARGS ?=
# Seconds that each fuzz target runs.
FUZZ_SECONDS ?= 30

CARGO ?= cargo
TOOLS := $(CURDIR)/target/tools
BUILT := $(or $(CARGO_TARGET_DIR),target)
# Rust's own folder comes last: it is missing from PATH in shells that read no profile.
export PATH := $(TOOLS)/bin:$(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint fuzz oracles proto-image deb check-deb install

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# Built without optimisation: on a fresh clone the demo starts minutes earlier, and it measures nothing.
demo: ## simulated switch, real agent, a conference to watch; ARGS=--selftest checks every step
	@command -v cc >/dev/null || packaging/dev-setup build
	@echo "building elph-agent, elph-server, elphctl, ssw-sim and demo without optimisation (minutes the first time)" >&2
	@$(CARGO) build --locked -p demo -p elph-agent -p elph-server -p elphctl -p ssw-sim
	@$(BUILT)/debug/demo $(ARGS)

# Everything is compiled first, so that compiler output does not mix with the tests'. The runner's summary is the last thing printed.
# Tools that a test only wants on a developer's machine are required here.
test: export ELPH_TEST_TOOLS = required
test: ## install what the tests need, then run all of them
	@packaging/dev-setup test
	$(CARGO) build --locked --workspace --bins --tests
	@if $(CARGO) nextest --version >/dev/null 2>&1; then set -x; $(CARGO) nextest run --locked --workspace $(ARGS); \
	else set -x; $(CARGO) test --locked --workspace --tests --no-fail-fast $(ARGS); fi

bench: ## measure against the stated figures and the rivals; writes target/bench/*.json
	@packaging/dev-setup bench
	$(CARGO) build --locked --release -p bench -p elph-agent -p elph-proxy -p elph-server -p push-sim -p ssw-sim
	$(BUILT)/release/bench $(ARGS)

lint: ## formatting, clippy, licences and bans, the API definition, scripts
	@packaging/dev-setup lint
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	cargo-deny --locked check licenses bans sources
	proto/check
	shellcheck packaging/dev-setup packaging/reference packaging/build-deb packaging/check-deb packaging/deb/*/* proto/check .ci/run

# New inputs are kept in target/, the committed seeds stay as they are. Every target runs, whatever the others find.
fuzz: ## run each fuzz target for FUZZ_SECONDS (30)
	@packaging/dev-setup fuzz
	cargo +nightly fuzz build --fuzz-dir tests/fuzz
	@failed=; for target in $$(cargo +nightly fuzz list --fuzz-dir tests/fuzz); do \
		echo "=== $$target, $(FUZZ_SECONDS) s"; mkdir -p target/fuzz/$$target; \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz $$target target/fuzz/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
			-print_final_stats=1 $(ARGS) || failed="$$failed $$target"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

# Not part of `make test`: the crates that ours are compared with bring TLS stacks that the product bans (tests/oracles/README.md). Its lock
# file follows the product's dependencies by itself, hence no --locked.
oracles: ## our pushes beside those of a2 and fcm-rs; every difference is in tests/oracles/DIFFERENCES.md
	@packaging/dev-setup build
	@pkg-config --exists openssl || { echo "fcm-rs needs OpenSSL's headers: apt-get install pkg-config libssl-dev" >&2; exit 1; }
	$(CARGO) test --manifest-path tests/oracles/Cargo.toml --lib --tests $(ARGS)

proto-image: ## accept the API definition as it is now: later changes must not break it
	@packaging/dev-setup buf
	proto/check accept

deb: ## the Debian packages of elph-agent, elph-server and elph-proxy, man pages and completions included; prints their paths
	@packaging/dev-setup deb
	packaging/build-deb $(ARGS)

# Not part of `make test`: it needs root and namespaces of its own.
check-deb: deb ## install that of elph-agent in a Debian 12 under a systemd of its own: start, reload, upgrade, purge
	@packaging/dev-setup check-deb
	$(CARGO) build --locked --release -p ssw-sim
	packaging/check-deb

# For systems without dpkg. DESTDIR stands before PREFIX, for packagers.
PREFIX ?= /usr/local
install: ## programs, man pages and completions from this source into PREFIX (/usr/local)
	@command -v cc >/dev/null || packaging/dev-setup build
	$(CARGO) build --locked --release -p elph-agent -p elphctl
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BUILT)/release/elph-agent $(BUILT)/release/elphctl
	packaging/reference $(BUILT)/release $(DESTDIR)$(PREFIX)
