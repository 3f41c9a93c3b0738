# Commands of a working day; `just` lists them.

_list:
    @just --list --unsorted

# A story from both services, through real gRPC.
demo *ARGS:
    cargo run --release -p dssd -- demo {{ARGS}}

# Every test of the workspace.
test *ARGS:
    cargo test --workspace {{ARGS}}

# Formats all code.
fmt:
    cargo fmt --all

# Formatting and lints, as the gate has them.
lint:
    cargo fmt --all --check
    .ci/texts
    cargo clippy --workspace --all-targets --locked -- -D warnings

# The documentation of all crates, warnings refused.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The services called from other languages.
interop:
    cargo build --workspace --bins
    tests/interop/run

# The contract, by buf.
contract:
    tests/proto/run

# The page in Chromium, and screenshots of it.
page:
    cargo build --workspace --bins
    tests/page/run

# What the comparison on a GPU does without one; `just gpu-compare full` installs its packages, 6 GB.
gpu-compare *MODE:
    tests/gpu_compare/run {{MODE}}

# The book, in target/book, and every link of it.
book *ARGS:
    tests/docs/book {{ARGS}}

# The documented commands; `just documents full` runs the long ones, too.
documents MODE="fast":
    cargo build --release --workspace --bins
    tests/docs/run {{MODE}}

# Lints and tests for AArch64, under qemu on other machines.
neon:
    .ci/neon

# Licences, sources and bans of dependencies.
deny:
    cargo deny check bans licenses sources

# The gate; `just ci full` adds the long checks.
ci *MODE:
    .ci/run {{MODE}}
