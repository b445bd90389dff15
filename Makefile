# The two commands to start with: `make demo` and `make test`. Each installs what it needs, or says what is missing.

CARGO ?= cargo
DENY := $(CURDIR)/target/tools/bin/cargo-deny
DEMO_FLAGS ?=
BENCH_FLAGS ?=

ONCE ?=

.PHONY: demo demo-docker image test check build fmt clippy doc deny architecture bench bench-ca bench-decision differential clean help

help: ## Lists what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## Runs a mesh of three services on this machine and sends requests through it
	@tests/setup.sh demo
	@$(CARGO) build --locked -p hopguard
	@target/debug/hopguard demo $(DEMO_FLAGS)

image: ## Builds the images hopguard:local and hopguard-redirect:local
	@docker/image.sh

demo-docker: image ## The same mesh as containers, from docker-compose.yml (ONCE=1 ends after the story)
	@examples/docker-compose/story.py $(if $(ONCE),--once)

test: ## Runs every test
	@tests/setup.sh test
	@tests/run.sh

check: fmt clippy doc architecture deny ## Runs everything that needs no running mesh

build: ## Builds the optimised binary, target/release/hopguard
	@$(CARGO) build --locked --release -p hopguard

fmt:
	@$(CARGO) fmt --all -- --check

clippy:
	@$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

doc:
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet

architecture:
	@$(CARGO) test --locked -q -p hopguard-tests --test architecture

# The advisory database is fetched; where it cannot be, that part alone is skipped, and says so.
deny: $(DENY)
	@$(DENY) --log-level error check bans licenses sources
	@if $(DENY) --log-level off fetch db >/dev/null 2>&1; then $(DENY) --log-level error check advisories; \
	else echo "cargo deny: advisories SKIPPED: the advisory database cannot be fetched from here"; fi

$(DENY):
	@if command -v cargo-deny >/dev/null; then mkdir -p $(dir $(DENY)) && ln -sf "$$(command -v cargo-deny)" $(DENY); \
	else $(CARGO) install --quiet --locked cargo-deny --version 0.20.2 --root target/tools; fi

bench: ## Measures a hop against a direct call, in one run
	@$(CARGO) build --locked --release -p hopguard -p hopguard-tests
	@bench/hop.py

bench-ca: ## Measures what an SVID costs the authority, through the Workload API: one line of JSON at the end
	@$(CARGO) build --locked --release -p hopguard -p hopguard-tests --bin hopguard --bin hopguard-svids
	@bench/ca.py $(BENCH_FLAGS)

bench-decision: ## Measures what a decision and a token cost: CPU microseconds, in one line of JSON at the end
	@$(CARGO) bench --locked --quiet -p hopguard-sidecar --bench decision

differential: ## Compares a million decisions with Cedar's own on the whole set, and reloads policies under load for a minute
	@HOPGUARD_TEST_LONG=1 $(CARGO) test --locked --release -p hopguard-sidecar --lib -- --nocapture authz::tests::differential
	@HOPGUARD_TEST_LONG=1 $(CARGO) test --locked -p hopguard-tests --test policy_reload_load -- --nocapture

clean: ## Removes what was built
	@$(CARGO) clean
