//! Clients of a repository in memory whose every request is one step, in any order that a test
//! wants; and a small pusher and reader to go with them.

pub(crate) mod pusher;
pub(crate) mod stage;

/// The seed of a random test: printed, and taken from `VELLUM_TEST_SEED` if that is set.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("VELLUM_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("VELLUM_TEST_SEED={seed}");
    seed
}
