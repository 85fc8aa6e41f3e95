# The entry a newcomer meets. Each target does all its own set-up on a fresh Debian 12 machine
# with Rust and Go, as root. Anything with logic lives in xtask and test-e2e.

PROFILE := ci
CARGO   := cargo
HOST     = $(shell rustc --print host-tuple)
BIN      = $(or $(CARGO_TARGET_DIR),target)/$(HOST)/$(PROFILE)
E2E      = $(BIN)/trunkline-e2e
# Always the whole workspace, narrowed by target: every tier then shares one build of every crate.
TEST     = $(CARGO) test --locked --profile $(PROFILE) --workspace

# Of the taps, what an emulated machine with a kernel before 6.6 runs: what differs by kernel or by clsact.
BEFORE_TCX = clsact:: dns:: sampling:: lifecycle:: overlap:: golden:: bytes_of_tagged a_larger_set the_next_process taps_equal

.PHONY: all demo demo-down images test test-unit test-flows test-light test-guest test-cluster bench lint build prereq clean

all: build

## demo: a real two-node cluster, Trunkline installed by kubectl, pods on VLANs (KEEP=1 leaves it running)
demo: build
	$(E2E) demo

## demo-down: removes what `KEEP=1 make demo` left
demo-down: build
	$(E2E) demo-down

## images: the OCI archives in target/images, from release binaries
images: prereq
	$(CARGO) build --release --locked --workspace --exclude trunkline-e2e --exclude xtask
	$(CARGO) build --release --locked -p trunkline-e2e --bin trunkline-probe
	$(CARGO) xtask images --profile release

## test: everything CI needs, cheapest first
test: lint test-unit test-flows test-light test-guest test-cluster

## test-unit: unit, property and real-OVS tests of the crates
test-unit: build
	$(E2E) prepare light
	KUBEBUILDER_ASSETS=$$($(E2E) assets) $(TEST) --lib --bins \
	  --test bridge_ovs --test cni_plugin --test netwatch --test node_io --test real --test replicas --test service --test taps
	TRUNKLINE_TAPS_WAY=clsact $(TEST) --test taps -- $(foreach part,clsact golden generated handshake,--skip $(part)::)

## test-flows: flow records at real collectors
test-flows: build
	$(E2E) prepare flows
	$(TEST) --test flow_export

## test-light: light nodes on a real control plane
test-light: build
	$(E2E) prepare light
	$(TEST) --test light -- --test-threads=1

## test-guest: the taps, and light nodes on the kernel's datapath, in machines of their own under QEMU
test-guest: build
	$(E2E) prepare guest
	$(TEST) --config 'target.$(HOST).runner = ["$(abspath $(E2E))", "guest", "--"]' --test taps -- --test-threads=1 --skip clsact::
	$(TEST) --config 'target.$(HOST).runner = ["$(abspath $(E2E))", "kernel-datapath"]' --test light
	$(TEST) --config 'target.$(HOST).runner = ["$(abspath $(E2E))", "guest", "--kernel=6.1", "--"]' --test taps -- --test-threads=1 --nocapture $(BEFORE_TCX)
	$(TEST) --config 'target.$(HOST).runner = ["$(abspath $(E2E))", "kernel-datapath", "--kernel=6.1"]' --test light

## test-cluster: two real nodes with kubelet and containerd
test-cluster: build
	$(E2E) prepare cluster
	$(TEST) --test cluster --test cluster_uninstall -- --test-threads=1 --nocapture

## bench: speed, as one JSON line each in target/bench.jsonl
bench: prereq
	$(CARGO) build --release --locked --workspace
	$(or $(CARGO_TARGET_DIR),target)/$(HOST)/release/trunkline-e2e bench

## lint: formatting, clippy, dependency edges, licences, generated files
lint: build
	CARGO_MANIFEST_DIR=$(CURDIR)/xtask $(BIN)/xtask lint

build: prereq
	$(CARGO) build --locked --profile $(PROFILE) --workspace

prereq:
	@sh xtask/prereq.sh

clean:
	$(CARGO) clean
