# make demo, make test: each sets up .venv first, if need be.
PYTHON ?= python3
RUN = .venv/bin/python
ROWS = teacher student at kd at_kd

.PHONY: demo test slow gpu lint revision

demo: .venv/installed
	$(RUN) tables.py run demo --root logs --at_once 2
	$(RUN) visualize.py --model $(ROWS:%=logs/demo/%/seed0) --save logs/demo/attention.png

test: .venv/installed lint
	$(RUN) -m pytest -q -n auto --maxprocesses 4 --durations=10

slow: .venv/installed
	$(RUN) -m pytest -q -m slow

gpu: .venv/installed
	$(RUN) -m pytest -q -m gpu -n 4

# what logs name as their revision in a copy without git
revision:
	echo $$(git rev-parse HEAD) $$(git diff --quiet HEAD -- '*.py' || echo changed) >REVISION

lint: .venv/installed
	$(RUN) -m ruff check .

# torchnet needs visdom, whose setup.py needs an old setuptools; older and newer pip read the
# constraint from different variables
.venv/installed: requirements.txt requirements-dev.txt build-constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=build-constraints.txt PIP_BUILD_CONSTRAINT=build-constraints.txt \
		.venv/bin/pip install -r requirements-dev.txt
	touch $@
