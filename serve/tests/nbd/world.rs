//! A server for one test, on a socket of its own.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vellum_serve::nbd::{NbdServer, ServerOptions};

use crate::client::{Client, Form};
use crate::memory::{Devices, Memory};

/// A test that waits longer has found a hang.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct World {
    pub(crate) server: NbdServer,
    pub(crate) disk: Arc<Memory>,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    /// The export "disk" with `bytes`, which can be written; "fixed", which cannot; "busy", which
    /// cannot be opened.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self::with(bytes, ServerOptions::default())
    }

    pub(crate) fn with(bytes: Vec<u8>, options: ServerOptions) -> Self {
        let disk = Arc::new(Memory::new(bytes));
        let fixed = Arc::new(Memory::read_only(vec![7; 65536]));
        let exports = Devices(vec![
            ("disk", Arc::clone(&disk)),
            ("fixed", fixed),
            ("busy", Arc::new(Memory::new(vec![]))),
        ]);
        let server = NbdServer::start_server(Arc::new(exports), options).expect("a server starts");
        let folder = tempfile::TempDir::new().expect("a folder can be made");
        server
            .listen_unix(&folder.path().join("socket"))
            .expect("a fresh socket can be had");
        Self {
            server,
            disk,
            folder,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("the server listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a limit can be set");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a limit can be set");
        stream
    }

    /// Waits until no client is left.
    pub(crate) fn await_empty(&self) {
        let begun = Instant::now();
        while self.server.client_count() > 0 {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} clients are left",
                self.server.client_count()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn enter(&self, form: Form) -> Client<UnixStream> {
        Client::enter(self.connect(), form, "disk", &[])
    }
}

/// Bytes that are never zero, different at every place.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(1..)).collect()
}
