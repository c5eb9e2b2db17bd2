# What continuous integration runs is "make test". Go is all that must be there; the rest is fetched or done without.

GO ?= go
FUZZTIME ?= 20s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help build test lint peers fuzz bench demo

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

build: ## the binary, ./slipstream
	$(GO) build -o slipstream ./cmd/slipstream

# -count=1: a remembered result would not do, since Go's memory knows nothing of the mail servers in .peers, of the
# kernel's TCP, of free ports or of privileges, which are what many of these tests are about.
test: peers lint ## everything that must hold: lint, then all tests with the race detector, real mail servers included
	$(GO) test -race -count=1 -timeout 13m ./...

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .) && [ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

peers: ## Debian's mail servers, name servers, checkers of mail and Chromium, unpacked into .peers (nothing is installed)
	@bench/mta/fetch.sh

# go test fuzzes one target at a time.
fuzz: ## every fuzz target for FUZZTIME (20s)
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

bench: peers build ## round trips over a long link, load beside HAProxy and nginx, memory
	./slipstream bench
	./slipstream bench load
	$(GO) test -run '^$$' -bench . -benchtime 1x ./proxy/
	$(GO) test -run '^$$' -bench . ./smtpwire/

demo: ## Slipstream at work between two servers on this machine
	$(GO) run ./cmd/slipstream demo
