mod content;
mod race;
mod world;
