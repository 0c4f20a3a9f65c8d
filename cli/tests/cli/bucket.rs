//! A bucket in a real S3 server: one that is started here, or the one that the environment names
//! (`dev/s3-cluster` does).

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sandbox::VELLUM;

/// Built by `make s3-server`.
const SERVER: &str = "s3s-fs";
const KEY: &str = "vellum-test";
const SECRET: &str = "vellum-test-secret";
/// The variables for a server that somebody else runs.
const GIVEN: [&str; 5] = [
    "AWS_ENDPOINT",
    "AWS_ALLOW_HTTP",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
];
const PATIENCE: Duration = Duration::from_mins(2);

/// The bucket; a server that was started for it ends when it is dropped.
pub(crate) struct Bucket {
    /// The variables with its address and credentials.
    pub(crate) environment: Vec<(String, String)>,
    name: String,
    server: Option<(Child, tempfile::TempDir)>,
}

impl Bucket {
    pub(crate) fn start() -> Self {
        match std::env::var("VELLUM_TEST_BUCKET") {
            Ok(name) => Self::given(name),
            Err(_) => Self::own(),
        }
    }

    /// A place in it that nobody has used.
    pub(crate) fn place(&self) -> String {
        format!("s3://{}/test-{:016x}", self.name, fastrand::u64(..))
    }

    fn given(name: String) -> Self {
        let value = |variable: &str| {
            std::env::var(variable)
                .unwrap_or_else(|_| panic!("{variable} is set beside VELLUM_TEST_BUCKET"))
        };
        let environment = GIVEN
            .map(|variable| (variable.to_owned(), value(variable)))
            .into();
        Self {
            environment,
            name,
            server: None,
        }
    }

    fn own() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("bucket")).expect("room");
        // Somebody else may take a port that was free a moment ago.
        let (server, port) = (0..5)
            .find_map(|_| serve(dir.path()))
            .expect("the S3 server listens");
        let values = [
            format!("http://127.0.0.1:{port}"),
            "true".to_owned(),
            "us-east-1".to_owned(),
            KEY.to_owned(),
            SECRET.to_owned(),
        ];
        let environment = GIVEN.iter().map(ToString::to_string).zip(values).collect();
        Self {
            environment,
            name: "bucket".to_owned(),
            server: Some((server, dir)),
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some((server, _)) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A server for the folders in `root`, once it listens. `None` if it ended before.
fn serve(root: &Path) -> Option<(Child, u16)> {
    let free = TcpListener::bind(("127.0.0.1", 0))
        .and_then(|socket| socket.local_addr())
        .expect("a free port");
    let port = free.port().to_string();
    let mut command = Command::new(program());
    command
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--access-key",
            KEY,
            "--secret-key",
            SECRET,
        ])
        .arg(root);
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server =
        started.unwrap_or_else(|error| panic!("{SERVER}, which `make s3-server` builds: {error}"));
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && server.try_wait().expect("it was started here").is_none() {
        if TcpStream::connect(free).is_ok() {
            return Some((server, free.port()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = server.kill();
    let _ = server.wait();
    None
}

/// The server's program where `make` puts it, else where the shell finds one.
fn program() -> PathBuf {
    let built = Path::new(VELLUM)
        .ancestors()
        .nth(2)
        .map(|target| target.join("tools/bin").join(SERVER));
    built
        .filter(|program| program.exists())
        .unwrap_or_else(|| SERVER.into())
}
