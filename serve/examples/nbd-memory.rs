//! Serves a disk in memory over NBD until it is killed: what the protocol costs by itself.
//!
//!     cargo run --release -p vellum-serve --example nbd-memory -- SOCKET MIB [TLS-FOLDER]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use vellum_serve::nbd::{ClientCertificates, NbdServer, ServerOptions, TlsIdentity};

#[path = "../tests/nbd/memory.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod memory;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let socket = PathBuf::from(arguments.next().ok_or("which socket?")?);
    let mib: usize = arguments.next().ok_or("how many MiB?")?.parse()?;
    let tls = arguments
        .next()
        .map(|folder| TlsIdentity::load_from(&PathBuf::from(folder), ClientCertificates::NotAsked))
        .transpose()?;
    let mut bytes = vec![0; mib << 20];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    let exports = Arc::new(memory::Devices(vec![(
        "disk",
        Arc::new(memory::Memory::new(bytes)),
    )]));
    let server = NbdServer::start_server(
        exports,
        ServerOptions {
            tls,
            ..ServerOptions::default()
        },
    )?;
    server.listen_unix(&socket)?;
    loop {
        std::thread::park();
    }
}
