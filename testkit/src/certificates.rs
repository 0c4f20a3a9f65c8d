//! Certificates for tests of TLS, made when the first test needs them.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

/// The folder with the certificates, as long as some test needs it.
static CERTIFICATES: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());

thread_local! {
    /// A test's part in it, which ends with the test's thread.
    static NEEDED: OnceCell<Arc<tempfile::TempDir>> = const { OnceCell::new() };
}

/// A folder with an authority, a server's certificate for "localhost", and a client's, made by
/// GnuTLS's tool.
fn make_certificates() -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().expect("a folder can be made");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("a file can be written");
    };
    write(
        "ca.info",
        "cn = test authority\nca\ncert_signing_key\ncrl_signing_key\nexpiration_days = 3650\n",
    );
    write(
        "server.info",
        "cn = localhost\ndns_name = localhost\ntls_www_server\nsigning_key\nencryption_key\n\
         expiration_days = 3650\n",
    );
    write(
        "client.info",
        "cn = client\ntls_www_client\nsigning_key\nencryption_key\nexpiration_days = 3650\n",
    );
    let certtool = |arguments: &str| certtool(folder.path(), arguments);
    for who in ["ca", "server", "client"] {
        certtool(&format!(
            "--generate-privkey --key-type rsa --bits 2048 --outfile {who}-key.pem"
        ));
    }
    certtool(
        "--generate-self-signed --load-privkey ca-key.pem --template ca.info --outfile ca-cert.pem",
    );
    for who in ["server", "client"] {
        let signing = "--load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem";
        certtool(&format!(
            "--generate-certificate --load-privkey {who}-key.pem {signing} --template {who}.info \
             --outfile {who}-cert.pem"
        ));
    }
    folder
}

/// Runs GnuTLS's tool in `folder`.
///
/// # Panics
///
/// If it is not there, or fails.
pub fn certtool(folder: &Path, arguments: &str) {
    let done = Command::new("certtool")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output();
    let done = done.expect("certtool is installed (gnutls-bin): `make test` does it");
    assert!(
        done.status.success(),
        "certtool {arguments}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The folder of the test's certificates: made for the first of several tests, and there until the
/// last one ends. `ca-cert.pem`, `server-cert.pem`, `client-cert.pem`, and a key of each.
///
/// # Panics
///
/// If they cannot be made.
#[must_use]
pub fn certificates() -> PathBuf {
    let take = || {
        let mut shared = CERTIFICATES.lock().expect("they could be made");
        shared.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make_certificates());
            *shared = Arc::downgrade(&made);
            made
        })
    };
    NEEDED.with(|needed| needed.get_or_init(take).path().to_owned())
}
