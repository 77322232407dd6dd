# `make` prints the targets. Everything is set up by the target that needs it.
NODE := node_modules/.bin/node
SHELL := /bin/sh

.DEFAULT_GOAL := help
.PHONY: help demo dev stop play test bench volume check format clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{ printf "  make %-8s %s\n", $$1, $$2 }'

node_modules/.installed: package.json package-lock.json
	@npm ci --no-fund --no-audit --loglevel=error
	@touch $@

demo: node_modules/.installed ## the refund desk on real servers; a runtime, an executor and a gateway are killed; under 3 minutes
	@$(NODE) services/local/demo.ts

dev: node_modules/.installed ## the same stack, left running; prints where everything is
	@$(NODE) services/local/dev.ts

stop: node_modules/.installed ## end what `make dev` started; WIPE=1 forgets its state
	@WIPE=$(WIPE) $(NODE) services/local/stop.ts

play: node_modules/.installed ## everything in one process, in memory: nothing survives it
	@$(NODE) services/local/play.ts

test: node_modules/.installed ## all that must pass: types, lint, unit, contracts, real processes killed with -9
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" $(NODE) test/run.ts

volume: node_modules/.installed ## what stays behind: 20,000 finished sessions, and one long conversation
	@$(NODE) test/bench/volume.ts $(ARGS)

bench: node_modules/.installed ## steps a second, latencies, CPU and memory, beside a floor measured in the same run
	@$(NODE) test/bench/main.ts $(ARGS)

check: node_modules/.installed ## types and lint only
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" && tsc --noEmit && biome check .

format: node_modules/.installed ## put the layout in order
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" && biome check --write .

clean: stop ## remove what is not committed
	@rm -rf node_modules .understudy
