//! The manager in a real browser: `make test-browser` installs one and runs these.

mod day;
mod driver;
mod looks;
#[expect(dead_code, reason = "the tests of the command use all of it")]
#[path = "../cli/sandbox.rs"]
mod sandbox;
mod served_page;
