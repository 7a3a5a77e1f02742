# `make run` and `make test` are the two commands to know; the rest keep the code in shape.
PYTHON ?= python3
BIN := .venv/bin
# Half of a test is waiting, so a small machine runs two for each core.
TESTERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? 2 * cores : cores)))
# Empty: what is compiled is kept, whatever the shell says. To compile all of it takes each process seconds.
export PYTHONDONTWRITEBYTECODE =

.PHONY: run demo test thorough faults model events soak watched check fmt lock licences sbom sbom-of audit pin image bench fuzz bitrix clean help

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

.venv/.installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: run  make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python lacks its venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

run: .venv/.installed ## start everything on this machine: database, stand-in proxy, service, worker
	@exec $(BIN)/python -m payment_dev run

demo: .venv/.installed ## play the main job against the running development server
	@exec $(BIN)/python -m payment_dev demo

test: .venv/.installed ## the whole suite on a throw-away PostgreSQL
	$(BIN)/pytest -n $(TESTERS) --dist loadgroup -m "not thorough"

thorough: .venv/.installed ## what `make test` leaves out because it takes long
	$(BIN)/pytest -n $(TESTERS) --dist loadgroup -m thorough

faults: .venv/.installed ## break it in every way we know and compare the records: docs/reliability.md
	$(BIN)/python -m faults $(FAULTS)

model: .venv/.installed ## explore the protocol of a payment to its end: docs/reliability.md
	$(BIN)/python -m model $(MODEL)

events: .venv/.installed ## deliver 10 000 events to a receiver that fails half of its calls and is killed twice
	$(BIN)/python -m faults.flood $(EVENTS)

soak: .venv/.installed ## 20 minutes of traffic under faults at random; memory flat, nothing left, records equal
	$(BIN)/python -m faults.soak $(SOAK)

watched: .venv/.installed ## let a real Prometheus (Debian: prometheus) watch the service, and put every query and alert to it
	$(BIN)/python -m ops.watched $(WATCHED)

check: .venv/.installed ## lint, types, import rules, migrations agree with the models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/postgres/test_migrations.py

fmt: .venv/.installed ## format and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: .venv/.installed ## resolve the lock files anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --all-extras --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml --all-extras -c requirements-dev.lock -o requirements-extras.lock

licences: .venv/.installed ## write docs/licences.md anew from the installed packages
	$(BIN)/python -m payment_dev licences

# Installed as the Dockerfile does it: what every image holds, and an image with the optional extras.
dist/runtime: requirements.lock
dist/runtime-extras: requirements-extras.lock
dist/runtime dist/runtime-extras: .venv/.installed
	@rm -rf $@
	@$(BIN)/python -m venv --without-pip $@
	$(BIN)/pip --python $@/bin/python install --quiet --require-hashes --only-binary :all: -r $(filter %.lock,$^) || { rm -rf $@; exit 1; }
	@touch $@

sbom-of: # an SBOM of what is installed in the folder RUNTIME, as the file SBOM
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o $(SBOM) $(RUNTIME)
	@echo "$(SBOM)"

sbom: dist/runtime dist/runtime-extras ## write what the image installs, without and with the extras, as CycloneDX SBOMs: docs/deploy.md
	@$(MAKE) --no-print-directory sbom-of RUNTIME=dist/runtime SBOM=dist/sbom.json
	@$(MAKE) --no-print-directory sbom-of RUNTIME=dist/runtime-extras SBOM=dist/sbom-extras.json

# The extras' lock file holds all that requirements.lock does (a test compares).
# --strict: a package whose advisories could not be read would else be left out, and the rest be called clean.
audit: .venv/.installed ## look up all that an image may hold among the known vulnerabilities; needs pypi.org
	@mkdir -p dist
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements-extras.lock 2>dist/audit.log; \
		code=$$?; tail -n 1 dist/audit.log; [ $$code = 0 ] || { echo "Not clean. When no vulnerability is named" \
		"above, the advisories could not be read, and nothing is known (dist/audit.log)."; exit 1; }

DOCKERFILE ?= Dockerfile
pin: ## write into the Dockerfile the digest that the tag of its base image has today; needs docker and its registry
	@image=$$(sed -n 's/^ARG PYTHON=\([^@]*\).*/\1/p' $(DOCKERFILE)); \
		digest=$$(docker buildx imagetools inspect "$$image" --format '{{.Manifest.Digest}}') || digest=; \
		printf '%s' "$$digest" | grep -Exq 'sha256:[0-9a-f]{64}' || { echo "No digest of $$image could be had: nothing is changed."; exit 1; }; \
		sed -i "s/^ARG PYTHON=.*/ARG PYTHON=$$image@$$digest/" $(DOCKERFILE); grep '^ARG PYTHON=' $(DOCKERFILE)

image: ## build the image for production; refuses a base image that is not pinned by its digest
	@grep -Eq '^ARG PYTHON=[^@]+@sha256:[0-9a-f]{64}$$' $(DOCKERFILE) || { echo "The base image is a tag, which is built anew now and then:" \
		"run  make pin  and commit the Dockerfile."; exit 1; }
	docker build --tag payment-service --file $(DOCKERFILE) .

bench: .venv/.installed ## measure the path of a payment against its goals: docs/performance.md
	$(BIN)/python benchmarks/path.py $(BENCH)

fuzz: .venv/.installed ## send 20 000 made-up requests to the service (about 5 minutes); the seed is printed
	$(BIN)/python -m fuzz $(FUZZ)

BITRIX ?= dist/payment-service-bitrix.tar.gz
bitrix: ## pack what a Bitrix site installs into one archive: docs/bitrix.md
	@mkdir -p $(dir $(BITRIX))
	tar -C clients/php --transform 's,^,payment-service-bitrix/,' -czf $(BITRIX) install.sh payment-events.php payment-refund.php Integration sale_payment
	@echo "$(BITRIX)"

clean: ## remove the virtual environment and the development data
	rm -rf .venv .data
