# The commands of the README. FEATURES=ssl-vendored builds OpenSSL from source; ARGS goes to the program.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help demo test chaos check bench budget experiment peers capacity-proof models reference doctor

export FEATURES
features := $(if $(FEATURES),--features $(FEATURES))
ort := env=$$(scripts/onnxruntime.sh env); eval "$$env"
real := env=$$(scripts/real_models.sh env); eval "$$env"
demo := cargo run --release --locked $(features) --bin tidemill -- demo

help:
	@echo 'make demo                20,000 requests through four models, on a simulated broker; audited'
	@echo 'make demo BROKER=kafka   the same on a real Kafka broker, started for it and stopped after'
	@echo 'make test                every test, those on a real broker too'
	@echo 'make chaos SEEDS=5 MINUTES=5   at most so many schedules of faults, none begun later, on a real broker; audited'
	@echo 'make chaos SEED=17       one of them again'
	@echo 'make chaos SEEDS=5 NODES=3     the same on a broker of three nodes'
	@echo 'make check               format, lints, documentation'
	@echo 'make bench               the benchmarks, on a real broker'
	@echo 'make budget              allocations and instructions of the hot path, beside what is on record; ARGS=--record writes them there'
	@echo 'make experiment FILE=experiments/quick.toml   an experiment on a real broker; ARGS may be --html FILE --out FILE'
	@echo 'make peers               the same job by others, side by side; ends with a table and target/peers/peers.json'
	@echo 'make capacity-proof      what capacity analysis predicts beside what then happens, on a real broker; 14 minutes once it is built'
	@echo 'make models              make the ONNX models again'
	@echo 'make reference           ask Python for the answers that the tests expect of real models; ARGS=--check only compares'
	@echo 'make doctor              say what this machine lacks'

doctor:
	@scripts/doctor.sh

ifeq ($(BROKER),kafka)
demo: doctor
	@scripts/kafka.sh install
	@cargo build --release --locked $(features) --bin tidemill
	@$(ort); scripts/kafka.sh run -- $(demo) --broker kafka $(ARGS)
else
demo:
	@scripts/doctor.sh --no-broker
	@$(ort); $(demo) $(ARGS)
endif

test: doctor
	scripts/kafka.sh install
	scripts/onnxruntime.sh install
	scripts/foreign_client.sh install
	scripts/real_models.sh install
	cargo test --workspace --locked $(features) --no-run
	$(ort); $(real); scripts/kafka.sh run -- cargo test --workspace --locked $(features) $(ARGS)

# ARGS may be --json, --dry-run or --from SEED.
campaign := $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),5) $(if $(MINUTES),--minutes $(MINUTES)))
chaos: doctor
	@scripts/kafka.sh install
	@scripts/onnxruntime.sh install
	@cargo test --quiet --locked $(features) --test chaos --no-run
	@$(ort); cargo test --quiet --locked $(features) --test chaos -- $(campaign) --nodes $(or $(NODES),1) $(ARGS)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked $(features) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked $(features)

bench: doctor
	scripts/kafka.sh install
	cargo bench --workspace --locked $(features) --no-run
	$(ort); $(real); scripts/kafka.sh run -- cargo bench --workspace --locked $(features) $(ARGS)

# In the profile of the tests, in which the budget is on record.
budget:
	cargo bench --locked $(features) --bench budget --profile dev -- $(ARGS)

# FILE is the experiment; ARGS goes to `tidemill bench run`.
experiment: doctor
	@scripts/kafka.sh install
	@cargo build --release --locked $(features) --bin tidemill
	@$(ort); scripts/kafka.sh run -- cargo run --quiet --release --locked $(features) --bin tidemill -- bench run $(or $(FILE),experiments/quick.toml) $(ARGS)

# PEERS="go quix" are only those; ARGS goes to `tidemill bench run`.
peers: doctor
	@scripts/kafka.sh install
	@cargo build --release --locked $(features) --bin tidemill
	@$(ort); PEERS="$(PEERS)" scripts/kafka.sh run -- scripts/peers.sh $(ARGS)

# ARGS may be --scenes N, --observe SECONDS, --drains N, --json FILE.
capacity-proof: doctor
	@scripts/kafka.sh install
	@cargo bench --quiet --locked $(features) --bench capacity --no-run
	@$(ort); scripts/kafka.sh run -- cargo bench --quiet --locked $(features) --bench capacity -- proof $(ARGS)

# In a virtual environment below target/, because the packages are needed for nothing else.
models:
	python3 -m venv target/models
	target/models/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements.txt
	target/models/bin/python scripts/models.py

# What Python's onnxruntime answers to the inputs of tests/it/real.rs.
reference:
	python3 -m venv target/reference
	target/reference/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-reference.txt
	$(real); target/reference/bin/python scripts/reference.py $(ARGS)
