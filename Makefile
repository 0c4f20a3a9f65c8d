# The commands of a working day. Each brings what it needs; `make` alone lists them.
#
# RocksDB's C++ takes about 15 minutes on two cores, once per cargo profile and feature set. So there is one profile, `release`
# (`bench` inherits it whole), and every build names the whole workspace: `-p` alone may unify features differently.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
export PATH := $(PATH):$(HOME)/.cargo/bin:$(CARGO_TARGET_DIR)/tools/bin:/usr/sbin:/sbin

to_build := g++ clang libclang-dev
to_make_disks := e2fsprogs qemu-utils xfsprogs btrfs-progs fdisk strace ntfs-3g dosfstools mtools exfatprogs exfat-fuse lvm2
to_be_clients := fuse3 libnbd-bin gnutls-bin tmux fish zsh
to_read := python3-venv
to_browse := chromium chromium-driver
to_boot := qemu-system-x86 mmdebstrap e2fsprogs

to_fill := e2fsprogs xfsprogs btrfs-progs python3
to_package := dpkg-dev binutils python3
to_test_package := mmdebstrap systemd-container

PREFIX ?= /usr/local
VELLUM := $(CARGO_TARGET_DIR)/release/vellum
# `vellum version` tells it.
export VELLUM_COMMIT ?= $(shell git describe --always --dirty --abbrev=12 --match= 2>/dev/null)

.PHONY: help build install uninstall deb test-package dist docs test test-browser test-foreign lint soak defects mutants demo pictures boot-test full-disk bench fuzz-build fuzz-smoke packages python tools s3-server
.NOTPARALLEL:

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: packages ## the `vellum` command, in $CARGO_TARGET_DIR/release
	cargo build --release --workspace

install: ## the built command, manual pages, completions and systemd units, under PREFIX (/usr/local), in DESTDIR
	dev/install $(VELLUM) '$(PREFIX)' '$(DESTDIR)'

uninstall: ## take them away again; stores, settings and the service's user stay
	dev/install --remove $(VELLUM) '$(PREFIX)' '$(DESTDIR)'

deb: build ## a Debian package of the command, in $CARGO_TARGET_DIR
	@dev/install-packages $(to_package)
	@dev/package $(VELLUM) $(CARGO_TARGET_DIR)

test-package: build ## that package in a Debian of its own, from its coming to its going; as root; CACHE=DIR keeps the Debian
	@dev/install-packages $(to_package) $(to_test_package)
	@dev/test-package $(if $(CACHE),'$(CACHE)')

dist: packages ## a release, in $CARGO_TARGET_DIR/dist: tarball, Debian package, SBOM, checksums; builds all anew
	@dev/install-packages $(to_package)
	dev/dist $(CARGO_TARGET_DIR)/dist

docs: build ## the book with its reference, as pages if mdbook is here; every link in the documents leads somewhere
	@dev/check-links
	@dev/make-book $(VELLUM) $(CARGO_TARGET_DIR)/book

# The tests come last, so that cargo's summary is the last word.
test: packages python s3-server fuzz-build ## every test, and that every fuzz target builds
	cargo test --release --workspace --no-fail-fast

test-browser: packages ## the manager in a real browser, some minutes; SCREENSHOTS=DIR keeps pictures of it at every width
	@dev/install-packages $(to_browse)
	@dev/install-axe $(CARGO_TARGET_DIR)/tools
	cargo test --release --workspace --test browser --no-run
	VELLUM_AXE='$(CARGO_TARGET_DIR)/tools/axe.min.js' $(if $(SCREENSHOTS),VELLUM_SCREENSHOTS='$(abspath $(SCREENSHOTS))') \
	  timeout 6m cargo test --release --workspace --test browser -- --ignored --test-threads 1

test-foreign: packages ## disk files that nobody here made: FOREIGN=DIR is read whole, beside qemu-img; a table of what was found
	$(if $(FOREIGN),,$(error FOREIGN=DIR names a folder of disk files))
	VELLUM_FOREIGN='$(abspath $(FOREIGN))' cargo test --release --workspace --test it --test cli -- --nocapture --test-threads 1 foreign

lint: packages tools ## format, clippy, which crates may be guests here, and that every seeded defect still fits
	cargo fmt --check
	dev/defects --fit
	dev/check-units
	dev/check-links
	cargo clippy --release --workspace --all-targets --features vellum-fuzz/libfuzzer -- -D warnings
	cargo deny check bans licenses sources

soak: build ## power cuts, kills, full disks, flipped bits for MINUTES (20), against a model; SEED repeats a run's decisions
	$(CARGO_TARGET_DIR)/release/vellum-soak $(CARGO_TARGET_DIR)/release/vellum \
	  --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

defects: packages python s3-server ## 60 seeded defects, each of which a test must notice; NAME tries some
	dev/defects $(NAME)

mutants: packages ## changes of the pure code that no test notices; hours. MUTANTS are more options of cargo-mutants
	dev/mutants $(MUTANTS)

demo: build ## the main job as a story of about a minute, whose store stays; IMAGE=disk.raw uses a copy of your own disk
	@dev/demo $(if $(IMAGE),'$(IMAGE)')

pictures: build ## the README's pictures, drawn anew from the demo's store
	@dev/install-packages $(to_browse)
	@mkdir -p docs && PICTURES=$(CURDIR)/docs \
	  DRAW_MANAGER="cargo test --manifest-path $(CURDIR)/Cargo.toml --release --workspace --test browser -- --ignored --exact looks::the_picture_of_the_readme" dev/demo

boot-test: build ## real guests run from a store, minutes; CACHE=DIR keeps their Debian
	@dev/install-packages $(to_boot)
	@dev/boot-test $(if $(CACHE),'$(CACHE)')

full-disk: build ## stores on small disks fill up and are emptied, minutes; as root, SCHEDULES=N (50)
	@dev/install-packages $(to_fill)
	dev/full-disk $(if $(SCHEDULES),--schedules $(SCHEDULES))

bench: build ## the hot paths, a large report, a repository after 200 generations and with 1,000 hosts, guests' requests, then Vellum beside its peers, as a store, as a backup and with files of other formats; CORPUS=DIR measures the raw disks in DIR
	cargo bench --workspace
	$(CARGO_TARGET_DIR)/release/vellum-report
	$(CARGO_TARGET_DIR)/release/vellum-generations
	$(CARGO_TARGET_DIR)/release/vellum-fleet
	$(CARGO_TARGET_DIR)/release/vellum-fleet memory
	@dev/install-packages $(to_browse)
	cargo test --release --workspace --test browser -- --ignored --nocapture --exact looks::ten_thousand_nodes_are_painted_at_once_and_a_change_within_a_second
	dev/bench-manager
	$(if $(CORPUS),$(CARGO_TARGET_DIR)/release/vellum-reclaim '$(CORPUS)')
	$(if $(CORPUS),$(CARGO_TARGET_DIR)/release/vellum-measure '$(CORPUS)')
	dev/bench-guests
	dev/bench-peers $(if $(CORPUS),'$(CORPUS)')
	dev/bench-backup $(if $(CORPUS),'$(CORPUS)')
	dev/bench-formats $(if $(CORPUS),'$(CORPUS)')

fuzz-build: packages ## every fuzz target, with coverage
	dev/fuzz build

fuzz-smoke: packages ## every fuzz target for SECONDS (5)
	dev/fuzz smoke $(SECONDS)

packages:
	@dev/check-rust
	@dev/install-packages $(to_build) $(to_make_disks) $(to_be_clients)

# For the independent reader of repositories, which the tests set beside ours.
python:
	@dev/install-packages $(to_read)
	@dev/install-python

# cargo-deny is built in a folder of its own that cargo removes, so that the workspace's build stays as it is.
tools:
	@cargo fmt --version >/dev/null && cargo clippy --version >/dev/null || rustup component add rustfmt clippy
	@command -v cargo-deny >/dev/null \
	  || env -u CARGO_TARGET_DIR cargo install --locked cargo-deny --version 0.20.2 --root $(CARGO_TARGET_DIR)/tools

# An S3 server for the tests, built likewise. Later versions need a later compiler than ours.
s3-server:
	@command -v s3s-fs >/dev/null \
	  || env -u CARGO_TARGET_DIR cargo install --locked s3s-fs --version 0.14.1 --features binary --root $(CARGO_TARGET_DIR)/tools
