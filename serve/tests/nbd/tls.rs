//! TLS: required or absent, and nothing said before it counts after it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use vellum_serve::ServeError;
use vellum_serve::nbd::{ClientCertificates, ServerOptions, TlsIdentity};
use vellum_testkit::certificates::{certificates, certtool};

use crate::client::{
    ACK, Client, ERR_INVALID, ERR_TLS_REQD, FIXED, Form, NO_ZEROES, OPT_ABORT, OPT_EXPORT_NAME,
    OPT_GO, OPT_INFO, OPT_LIST, OPT_STARTTLS, OPT_STRUCTURED, READ, WRITE, option, wish,
};
use crate::world::{World, noise};

/// A server that requires TLS.
pub(crate) fn secure_world(bytes: Vec<u8>, clients: ClientCertificates) -> World {
    let identity =
        TlsIdentity::load_from(&certificates(), clients).expect("the certificates are whole");
    World::with(
        bytes,
        ServerOptions {
            tls: Some(identity),
            ..ServerOptions::default()
        },
    )
}

type Secure = StreamOwned<ClientConnection, UnixStream>;

fn secured(stream: UnixStream, with_certificate: bool) -> Secure {
    let mut roots = RootCertStore::empty();
    roots
        .add(
            CertificateDer::from_pem_file(certificates().join("ca-cert.pem"))
                .expect("the certificates are whole"),
        )
        .expect("the certificates are whole");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the certificates are whole");
    let builder = builder.with_root_certificates(roots);
    let config = if with_certificate {
        let chain = vec![
            CertificateDer::from_pem_file(certificates().join("client-cert.pem"))
                .expect("the certificates are whole"),
        ];
        builder
            .with_client_auth_cert(
                chain,
                PrivateKeyDer::from_pem_file(certificates().join("client-key.pem"))
                    .expect("the certificates are whole"),
            )
            .expect("the certificates are whole")
    } else {
        builder.with_no_client_auth()
    };
    let session = ClientConnection::new(
        Arc::new(config),
        ServerName::try_from("localhost").expect("the certificates are whole"),
    )
    .expect("the certificates are whole");
    StreamOwned::new(session, stream)
}

/// Says what it must in plain text, then starts TLS.
fn upgrade(world: &World, before: &[(u32, &[u8])], with_certificate: bool) -> Client<Secure> {
    let mut plain = Client::greet(world.connect(), FIXED | NO_ZEROES);
    for (number, data) in before {
        assert_eq!(plain.ask(*number, data)[0].0, ERR_TLS_REQD);
    }
    assert_eq!(plain.ask(OPT_STARTTLS, b""), [(ACK, vec![])]);
    plain.under(|stream| secured(stream, with_certificate))
}

#[test]
fn nothing_is_served_in_plain_text() {
    let world = secure_world(noise(65536, 1), ClientCertificates::NotAsked);
    let mut client = Client::greet(world.connect(), FIXED);
    let long = vec![0; 50_000];
    for (number, data) in [
        (OPT_LIST, &b""[..]),
        (OPT_GO, &wish("disk", &[])),
        (OPT_INFO, &wish("disk", &[])),
        (OPT_STRUCTURED, b""),
        (99, b"?"),
        (OPT_GO, &long),
    ] {
        assert_eq!(
            client.ask(number, data)[0].0,
            ERR_TLS_REQD,
            "option {number}"
        );
    }
    assert_eq!(client.ask(OPT_STARTTLS, b"x")[0].0, ERR_INVALID);
    assert_eq!(client.ask(OPT_ABORT, b""), [(ACK, vec![])]);
    let mut client = Client::greet(world.connect(), FIXED);
    client.say(&option(OPT_EXPORT_NAME, b"disk"));
    assert!(client.is_closed());
    assert_eq!(Arc::strong_count(&world.disk), 2, "no device was opened");
}

#[test]
fn under_tls_everything_is_served() {
    let world = secure_world(noise(8 << 20, 1), ClientCertificates::NotAsked);
    let mut client = upgrade(&world, &[(OPT_LIST, b"")], false);
    assert_eq!(
        client.ask(OPT_STARTTLS, b"")[0].0,
        ERR_INVALID,
        "once is enough"
    );
    assert_eq!(client.ask(OPT_STRUCTURED, b"")[0].0, ACK);
    client.form = Form::Structured;
    assert_eq!(
        client.ask(OPT_GO, &wish("disk", &[])).last().unwrap().0,
        ACK
    );
    for len in [1_usize, 4096, 70_000, 8 << 20] {
        let written = noise(len, 3);
        assert_eq!(client.call(0, WRITE, 0, len as u64, &written).error, 0);
        assert!(client.call(0, READ, 0, len as u64, b"").bytes(0, len) == written);
    }
}

/// CVE-2021-3716: what a man in the middle says in plain text must not count, neither as state nor
/// as an option behind STARTTLS.
#[test]
fn what_was_said_in_plain_text_is_forgotten_or_refused() {
    let world = secure_world(noise(65536, 1), ClientCertificates::NotAsked);
    let mut client = upgrade(&world, &[(OPT_STRUCTURED, b"")], false);
    assert_eq!(
        client.ask(OPT_GO, &wish("disk", &[])).last().unwrap().0,
        ACK
    );
    let reply = client.call(0, READ, 0, 512, b"");
    assert_eq!(
        reply.data[0].1.as_ref().unwrap().len(),
        512,
        "a simple reply: structured ones were never agreed"
    );
    let mut injecting = Client::greet(world.connect(), FIXED);
    injecting.say(&[option(OPT_STARTTLS, b""), option(OPT_STRUCTURED, b"")].concat());
    assert!(injecting.is_closed(), "plain text behind STARTTLS ends it");
}

#[test]
fn a_client_that_breaks_off_or_talks_nonsense_is_let_go() {
    let world = secure_world(noise(65536, 1), ClientCertificates::NotAsked);
    for nonsense in [
        &b""[..],
        b"\x16\x03\x01",
        b"GET / HTTP/1.0\r\n\r\n",
        &vec![0xff; 20_000],
    ] {
        let mut client = Client::greet(world.connect(), FIXED);
        assert_eq!(client.ask(OPT_STARTTLS, b""), [(ACK, vec![])]);
        // It may hang up before all has been said.
        let _ = client.stream.write_all(nonsense);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = client.stream.read_to_end(&mut rest);
        assert!(!rest.windows(8).any(|bytes| bytes == b"IHAVEOPT"));
    }
    assert_eq!(
        upgrade(&world, &[], false)
            .ask(OPT_LIST, b"")
            .last()
            .unwrap()
            .0,
        ACK
    );
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_gets_nothing() {
    let world = secure_world(noise(65536, 1), ClientCertificates::Required);
    assert_eq!(
        upgrade(&world, &[], true)
            .ask(OPT_LIST, b"")
            .last()
            .unwrap()
            .0,
        ACK
    );
    let mut without = upgrade(&world, &[], false);
    // Under TLS 1.3 the client learns it with its first read.
    let _ = without.stream.write_all(&option(OPT_LIST, b""));
    assert!(without.stream.read(&mut [0; 1]).is_err());
}

#[test]
fn a_client_whose_certificate_was_revoked_gets_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    for name in [
        "ca-cert.pem",
        "ca-key.pem",
        "server-cert.pem",
        "server-key.pem",
        "client-cert.pem",
    ] {
        fs::copy(certificates().join(name), folder.path().join(name)).unwrap();
    }
    fs::write(
        folder.path().join("crl.info"),
        "crl_next_update = 3650\ncrl_number = 1\n",
    )
    .unwrap();
    let signing = "--load-ca-privkey ca-key.pem --load-ca-certificate ca-cert.pem --template crl.info --outfile ca-crl.pem";
    for (revoked, comes_in) in [("", true), (" --load-certificate client-cert.pem", false)] {
        certtool(folder.path(), &format!("--generate-crl {signing}{revoked}"));
        let identity = TlsIdentity::load_from(folder.path(), ClientCertificates::Required).unwrap();
        let world = World::with(
            noise(65536, 1),
            ServerOptions {
                tls: Some(identity),
                ..ServerOptions::default()
            },
        );
        let mut client = upgrade(&world, &[], true);
        // Under TLS 1.3 the client learns it with its first read.
        let _ = client.stream.write_all(&option(OPT_LIST, b""));
        assert_eq!(
            client.stream.read(&mut [0; 1]).is_ok_and(|len| len == 1),
            comes_in
        );
    }
}

#[test]
fn certificates_that_are_not_whole_are_refused() {
    let empty = tempfile::TempDir::new().unwrap();
    let load = |folder: &Path, clients| TlsIdentity::load_from(folder, clients).map(|_| ());
    assert!(matches!(
        load(empty.path(), ClientCertificates::NotAsked),
        Err(ServeError::Certificate(..))
    ));
    for name in ["server-cert.pem", "server-key.pem"] {
        fs::copy(certificates().join(name), empty.path().join(name)).unwrap();
    }
    assert!(load(empty.path(), ClientCertificates::NotAsked).is_ok());
    assert!(
        matches!(
            load(empty.path(), ClientCertificates::Required),
            Err(ServeError::Certificate(..))
        ),
        "no authority"
    );
    fs::copy(
        certificates().join("ca-cert.pem"),
        empty.path().join("ca-cert.pem"),
    )
    .unwrap();
    assert!(load(empty.path(), ClientCertificates::Required).is_ok());
    fs::write(empty.path().join("ca-crl.pem"), "damaged").unwrap();
    assert!(
        matches!(
            load(empty.path(), ClientCertificates::Required),
            Err(ServeError::Certificate(..))
        ),
        "a list that nobody can read"
    );
    fs::copy(
        certificates().join("client-key.pem"),
        empty.path().join("server-key.pem"),
    )
    .unwrap();
    assert!(
        matches!(
            load(empty.path(), ClientCertificates::NotAsked),
            Err(ServeError::Tls(..))
        ),
        "another's key"
    );
    fs::write(empty.path().join("server-cert.pem"), "").unwrap();
    assert!(matches!(
        load(empty.path(), ClientCertificates::NotAsked),
        Err(ServeError::Certificate(..))
    ));
}

/// How certtool makes keys: the authority's and a client's, and the server's. The long one takes it
/// minutes to find: it is here.
const KINDS: [(&str, &str); 4] = [
    (
        "--key-type ecdsa --curve secp256r1",
        "--key-type ecdsa --curve secp256r1",
    ),
    (
        "--key-type ecdsa --curve secp384r1",
        "--key-type ecdsa --curve secp384r1",
    ),
    ("--key-type ed25519", "--key-type ed25519"),
    (LONG, "--key-type rsa --bits 3072"),
];
const LONG: &str = "rsa-8192";
const LONG_KEY: &str = include_str!("keys/rsa-8192-key.pem");

/// A folder with an authority, a server and a client, with keys of these kinds.
fn certificates_of(theirs: &str, own: &str) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().expect("a folder can be made");
    for (who, how) in [("ca", theirs), ("server", own), ("client", theirs)] {
        let key = format!("{who}-key.pem");
        if how == LONG {
            fs::write(folder.path().join(&key), LONG_KEY).expect("room");
        } else {
            certtool(
                folder.path(),
                &format!("--generate-privkey {how} --outfile {key}"),
            );
        }
        let info = format!("{who}.info");
        fs::copy(certificates().join(&info), folder.path().join(&info))
            .expect("it was made for the others");
    }
    let own_signature = "--generate-self-signed --load-privkey ca-key.pem --template ca.info";
    certtool(
        folder.path(),
        &format!("{own_signature} --outfile ca-cert.pem"),
    );
    for who in ["server", "client"] {
        sign(folder.path(), who);
    }
    folder
}

/// A certificate of the folder's authority for `who`.
fn sign(folder: &Path, who: &str) {
    let signing = "--load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem";
    let what = format!("--load-privkey {who}-key.pem --template {who}.info");
    certtool(
        folder,
        &format!("--generate-certificate {what} {signing} --outfile {who}-cert.pem"),
    );
}

/// What `nbdinfo` says of the disk under TLS, with the client's certificate of this folder: GnuTLS
/// is the other side.
fn nbdinfo(world: &World, folder: &Path) -> Result<String, String> {
    let uri = format!(
        "nbds+unix://localhost/disk?socket={}&tls-certificates={}",
        world.socket().display(),
        folder.display()
    );
    let done = Command::new("nbdinfo").args(["--size", &uri]).output();
    let done = done.expect("libnbd-bin is installed: `make test` does it");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() {
        Ok(text(&done.stdout))
    } else {
        Err(text(&done.stderr))
    }
}

#[test]
fn keys_of_every_kind_that_is_named_work() {
    for (theirs, own) in KINDS {
        let folder = certificates_of(theirs, own);
        let identity = TlsIdentity::load_from(folder.path(), ClientCertificates::Required);
        let identity = identity.unwrap_or_else(|error| panic!("{theirs}: {error}"));
        let options = ServerOptions {
            tls: Some(identity),
            ..ServerOptions::default()
        };
        let world = World::with(noise(65536, 1), options);
        let said = nbdinfo(&world, folder.path());
        assert_eq!(said.as_deref().map(str::trim), Ok("65536"), "{theirs}");
    }
}

#[test]
fn a_key_of_a_kind_that_does_not_work_is_named_at_the_start() {
    for (how, kind) in [
        ("--key-type ed448", "Ed448"),
        ("--key-type ecdsa --curve secp521r1", "ECDSA on P-521"),
        ("--key-type rsa --bits 1024", "RSA of 1024 bits"),
        (LONG, "RSA of 8192 bits"),
    ] {
        let folder = certificates_of(how, how);
        let says = |clients| match TlsIdentity::load_from(folder.path(), clients) {
            Err(error @ ServeError::Certificate(..)) => error.to_string(),
            Err(error) => panic!("{kind}: {error}"),
            Ok(_) => panic!("{kind} works now: then it is to be named among those that do"),
        };
        let own = says(ClientCertificates::NotAsked);
        let expected = format!("server-key.pem: a key of the kind {kind} does not work here (keys");
        assert!(own.contains(&expected), "{own}");
        for name in ["server-cert.pem", "server-key.pem"] {
            fs::copy(certificates().join(name), folder.path().join(name)).unwrap();
        }
        if how != LONG {
            let authority = says(ClientCertificates::Required);
            let expected = format!("ca-cert.pem: a key of the kind {kind} ");
            assert!(authority.contains(&expected), "{authority}");
        }
    }
}

#[test]
fn a_client_whose_key_does_not_work_is_told_of() {
    for how in ["--key-type ed448", "--key-type ecdsa --curve secp521r1"] {
        let folder = certificates_of(how, how);
        // An authority that works, for a client that does not.
        for name in [
            "ca-cert.pem",
            "ca-key.pem",
            "server-cert.pem",
            "server-key.pem",
        ] {
            fs::copy(certificates().join(name), folder.path().join(name)).unwrap();
        }
        sign(folder.path(), "client");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        let options = ServerOptions {
            tls: Some(TlsIdentity::load_from(folder.path(), ClientCertificates::Required).unwrap()),
            report: Some(Arc::new(move |line: &str| {
                kept.lock().unwrap().push(line.to_owned());
            })),
            ..ServerOptions::default()
        };
        let world = World::with(noise(65536, 1), options);
        nbdinfo(&world, folder.path()).expect_err("it has no key that works");
        world.await_empty();
        let lines = lines.lock().unwrap().join("\n");
        assert!(lines.contains("keys that work: RSA"), "{how}: {lines}");
    }
}
