# `make` prints the targets. Everything is set up by the target that needs it.
NODE := node_modules/.bin/node
SHELL := /bin/sh

.DEFAULT_GOAL := help
.PHONY: help demo dev stop play unit test test-cluster chaos-cluster images kind-up values bench compare recovery volume soak check format clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{ printf "  make %-13s %s\n", $$1, $$2 }'

node_modules/.installed: package.json package-lock.json
	@echo "installing packages ..."
	@npm ci --no-fund --no-audit --loglevel=error
	@touch $@

demo: node_modules/.installed ## the refund desk on real servers; a runtime, an executor and a gateway are killed; under 3 minutes
	@$(NODE) services/local/demo.ts

dev: node_modules/.installed ## the same stack, left running; prints where everything is. SPECS=<folder> runs your own agents too
	@SPECS='$(SPECS)' $(NODE) services/local/dev.ts

stop: node_modules/.installed ## end what `make dev` started; WIPE=1 removes its state
	@WIPE=$(WIPE) $(NODE) services/local/stop.ts

play: node_modules/.installed ## everything in one process, in memory: nothing survives it. SPECS=<folder> AGENT=<name> INPUT=<json> runs your own agent
	@SPECS='$(SPECS)' $(NODE) services/local/play.ts

unit: node_modules/.installed ## core, runtime and in-process contract tests: no server, under 20 s
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" vitest run --config vitest.unit.config.ts

test: node_modules/.installed ## all that must pass: types, lint, unit, contracts, real processes killed with -9
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" $(NODE) test/run.ts

test-cluster: node_modules/.installed ## the chart, its users, policies and sandboxes on the cluster of the current context
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" vitest run test/cluster --no-file-parallelism

chaos-cluster: node_modules/.installed ## kill, cut off and starve it with Chaos Mesh under load; scorecard in .understudy/chaos. ARGS: scenarios; KILLS=n
	@KILLS=$(KILLS) $(NODE) chaos/run.ts $(ARGS)

images: ## build both images with docker, podman or buildah; LOAD=kind puts them on a kind cluster
	@sh bin/images

kind-up: images ## a kind cluster of three nodes with the images on it (needs Docker)
	@kind create cluster --name understudy --config k8s/kind.yaml && kind load docker-image --name understudy understudy:0.1.0 understudy-sandbox:0.1.0

values: node_modules/.installed ## write what follows from charts/values.ts
	@$(NODE) charts/generate.ts

volume: node_modules/.installed ## what stays behind: 20,000 finished sessions, and one long conversation
	@$(NODE) test/bench/volume.ts $(ARGS)

recovery: node_modules/.installed ## how long a shard is silent when its runtime is told to go, or is killed
	@$(NODE) test/bench/recovery.ts $(ARGS)

soak: node_modules/.installed ## kill, freeze and empty everything for MINUTES (5), under tasks of every kind; says what broke
	@$(NODE) test/soak/main.ts --minutes=$(or $(MINUTES),5)

bench: node_modules/.installed ## steps a second, latencies, CPU and memory, beside a floor measured in the same run
	@$(NODE) test/bench/main.ts $(ARGS)

test/bench/restate/node_modules/.installed: test/bench/restate/package.json test/bench/restate/package-lock.json
	@echo "installing Restate (its licence, the Business Source License, allows to measure it) ..."
	@cd test/bench/restate && npm ci --ignore-scripts --no-fund --no-audit --loglevel=error
	@touch $@

compare: node_modules/.installed ## the work of the bench by Understudy and by Restate in turns (installs Restate under test/bench)
	@case "$(ARGS)" in *--help*) ;; *) $(MAKE) --no-print-directory test/bench/restate/node_modules/.installed ;; esac
	@$(NODE) test/bench/compare.ts $(ARGS)

check: node_modules/.installed ## types and lint only
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" && tsc --noEmit && tsc --noEmit -p services/console/page && biome check .

format: node_modules/.installed ## put the layout in order
	@PATH="$(CURDIR)/node_modules/.bin:$$PATH" && biome check --write .

clean: stop ## remove what is not committed
	@rm -rf node_modules test/bench/restate/node_modules .understudy
