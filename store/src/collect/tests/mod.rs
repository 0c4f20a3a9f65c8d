mod content;
mod race;
pub(crate) mod world;
