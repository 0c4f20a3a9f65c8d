//! Tests of the lower layers of a repository from outside: places for objects, sealing, encodings,
//! and the catalog, together.

mod catalog;
mod cloud;
mod folder;
mod reader;
mod s3;
mod sample;

/// A new seed, or the one that `VELLUM_TEST_SEED` names. Printed, so that a failure can be
/// replayed.
fn random() -> fastrand::Rng {
    let seed = std::env::var("VELLUM_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("VELLUM_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
