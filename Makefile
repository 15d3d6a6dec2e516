# Every target works on a fresh machine that has the Rust toolchain and make; `setup` installs the rest.
.DEFAULT_GOAL := help
.PHONY: help setup build test test-matrix torture check demo bench

CARGO ?= cargo
WALHOOK := $(or $(CARGO_TARGET_DIR),target)/release/walhook

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install Postgres and a C compiler where they are missing
	@scripts/setup.sh

build: setup ## build the release binary
	$(CARGO) build --release

test: setup ## run all tests, against a private throwaway Postgres
	$(CARGO) test

test-matrix: setup ## run the tests that meet a server on Postgres 14 to 18, or on VERSIONS="14 18"
	@CARGO="$(CARGO)" scripts/test-matrix.sh $(VERSIONS)

MINUTES ?= 10
torture: setup ## random work and faults against a model, for MINUTES=10
	WALHOOK_TEST_MINUTES=$(MINUTES) $(CARGO) test --release --test torture -- --nocapture

check: setup ## check format, lints, the rules of tests/tidy.rs and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test --quiet --test tidy
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items

demo: build ## build, then show walhook at work; needs no database
	$(WALHOOK) demo

bench: build ## build, then measure walhook against its floors; needs no database
	$(WALHOOK) bench
