# Recipes that CI uses. `just --list` shows them; each is a line that can be typed by hand.

# Everything that must pass
test *STEPS:
    bash scripts/test.sh {{STEPS}}

# What CI runs: installs what is missing, then `test`
ci:
    bash .ci/run

# The demo on the bundled activity model
demo:
    cargo run --release --locked -- demo

# The book, into target/book
book:
    bash scripts/test.sh book

# Licences, advisories and sources of the dependencies
deny:
    bash scripts/test.sh deny

# The package as it would be published
package:
    bash scripts/test.sh package

# Random inputs for the readers of files, SECONDS each
fuzz SECONDS="60":
    bash scripts/fuzz.sh {{SECONDS}}

# The program for an ARM board
cross TARGET="aarch64-unknown-linux-gnu":
    bash scripts/cross-build.sh {{TARGET}}
