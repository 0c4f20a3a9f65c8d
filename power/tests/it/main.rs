//! Real stores, database and all, lose power. In one binary: it links `RocksDB`.

#[path = "../../../serve/tests/nbd/client.rs"]
#[expect(dead_code, reason = "the server's tests use the rest")]
mod client;
#[path = "../../../store/tests/it/content.rs"]
mod content;
#[path = "../../../store/tests/it/drive.rs"]
#[expect(dead_code, reason = "the property test uses the rest")]
mod drive;
mod guest;
#[path = "../../../store/tests/it/history.rs"]
mod history;
mod operations;
mod recording;
mod remains;
#[path = "../../../store/tests/it/world.rs"]
#[expect(dead_code, reason = "the property test uses the rest")]
mod world;
