//! Objects in a bucket of an object store. The async runtime and the clients' crate end in this
//! file.
//!
//! Every object is one request, also a whole pack (64 MiB at most): there are no multipart uploads,
//! which would have to be cleaned up. A request is tried again a few times with growing pauses, by
//! the crate and, where a body broke off, here: enough for a busy server. Longer outages are
//! [`persistence`](super::persistence)'s. Failures are put in words by `cloud_failure`. Where
//! the store knows conditional puts, nothing is written over; where it does not, names are enough:
//! they are never made twice.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use super::cloud_failure::CloudFailure;
use super::location::{Bucket, Environment, Protocol};
use super::{OBJECT_LEN_MAX, ObjectError, ObjectErrorKind, Objects, exactly};

/// Some tens of milliseconds each, most of it waiting: for a disk that is restored in order, whose
/// frames lie shuffled in their packs.
const REQUESTS_TOGETHER: usize = 8;

/// One request is tried this many times again: with the pauses below some seconds.
const RETRIES_MAX: usize = 3;
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The timeout of one request: long enough for a pack over a line of 1 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of attempts at a read whose body breaks off.
const READ_TRIES: usize = 3;
/// Requests wait for the network; two threads serve hundreds of them.
const RUNTIME_THREADS: usize = 2;
/// The longest part of a server's answer that a message shows.
const MESSAGE_LEN_MAX: usize = 400;
/// Shorter values are no secrets, and would tear holes into messages.
const SECRET_LEN_MIN: usize = 6;

/// A bucket of an object store.
pub struct Cloud {
    runtime: Runtime,
    store: Arc<dyn ObjectStore>,
    bucket: Bucket,
    /// The same without retries: a server that does not know conditional puts may say so in a way
    /// that looks like a passing failure.
    impatient: Arc<dyn ObjectStore>,
    /// True if the store takes conditional puts; empty until that is known.
    is_conditional: OnceLock<bool>,
    /// True once an answer said that the bucket keeps versions.
    has_versions: AtomicBool,
    /// The secrets that no message may hold.
    secrets: Vec<String>,
}

impl Cloud {
    /// The bucket, with credentials and settings from `environment`. Makes no request.
    pub fn new(bucket: &Bucket, environment: &Environment) -> Result<Self, ObjectError> {
        let secrets = secrets(environment);
        let fail = |what: String| {
            ObjectError::new(
                ObjectErrorKind::Failed,
                address(bucket),
                cleaned(&what, &secrets),
            )
        };
        if bucket.protocol == Protocol::S3 && lacks_credentials(environment) {
            let what = "no credentials are set: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            let kind = ObjectErrorKind::Denied;
            return Err(ObjectError::new(kind, address(bucket), what));
        }
        // Somebody else in this process may have chosen already; then theirs is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            |retries| client(bucket, environment, retries).map_err(|error| fail(error.to_string()));
        let (store, impatient) = (client(RETRIES_MAX)?, client(0)?);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime
            .worker_threads(RUNTIME_THREADS)
            .enable_all()
            .build()
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self {
            runtime,
            store,
            impatient,
            bucket: bucket.clone(),
            is_conditional: OnceLock::new(),
            has_versions: AtomicBool::new(false),
            secrets,
        })
    }

    fn path(&self, name: &str) -> Result<Path, ObjectError> {
        let whole = if self.bucket.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.bucket.prefix)
        };
        Path::parse(whole.trim_end_matches('/')).map_err(|error| self.error(name, error.into()))
    }

    /// Reads with `attempt` until a whole body came.
    fn read(&self, name: &str, options: &GetOptions) -> Result<Vec<u8>, ObjectError> {
        let path = self.path(name)?;
        let mut tries = 1;
        loop {
            match self
                .runtime
                .block_on(read_body(&*self.store, &path, options.clone()))
            {
                Err(error)
                    if tries < READ_TRIES
                        && self.failure(&error).kind == ObjectErrorKind::Passing =>
                {
                    tries += 1;
                }
                other => return other.map_err(|error| self.error(name, error)),
            }
        }
    }

    fn error(&self, name: &str, error: object_store::Error) -> ObjectError {
        let name = format!("{}/{name}", address(&self.bucket));
        let failure = self.failure(&error);
        ObjectError::new(failure.kind, name, cleaned(&failure.what, &self.secrets))
            .because(Cause(cleaned(&error.to_string(), &self.secrets)))
    }

    fn failure(&self, error: &object_store::Error) -> CloudFailure {
        CloudFailure::of(error, self.bucket.protocol, &self.bucket.name)
    }

    /// Notes that the bucket keeps versions if an answer names one. Where that was ended, new
    /// objects have the version "null".
    fn note_version(&self, version: Option<&str>) {
        if self.bucket.protocol == Protocol::S3 && version.is_some_and(|version| version != "null")
        {
            self.has_versions.store(true, Ordering::Relaxed);
        }
    }

    /// Puts only where nothing is, if the store can tell.
    fn put_new(&self, path: &Path, payload: PutPayload) -> Result<(), object_store::Error> {
        let put = |store: &dyn ObjectStore, mode: PutMode| {
            let put = store.put_opts(path, payload.clone(), mode.into());
            self.runtime
                .block_on(put)
                .map(|put| self.note_version(put.version.as_deref()))
        };
        if self.is_conditional.get().is_none() {
            let first = put(&*self.impatient, PutMode::Create);
            match &first {
                Err(error) if is_unknown_to_the_store(error) => {
                    let _ = self.is_conditional.set(false);
                }
                Err(error)
                    if matches!(
                        self.failure(error).kind,
                        ObjectErrorKind::Passing | ObjectErrorKind::Unreachable
                    ) => {}
                _ => {
                    let _ = self.is_conditional.set(true);
                    return first;
                }
            }
        }
        put(
            &*self.store,
            if self.is_conditional.get() == Some(&false) {
                PutMode::Overwrite
            } else {
                PutMode::Create
            },
        )
    }
}

impl Objects for Cloud {
    fn get(&self, name: &str) -> Result<Vec<u8>, ObjectError> {
        self.read(name, &GetOptions::default())
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        exactly(name, &range, self.read(name, &options)?)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let path = self.path(name)?;
        match self.put_new(&path, PutPayload::from(bytes.to_vec())) {
            // Perhaps our own, whose answer was lost.
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => {
                let is_same = self.get(name)? == bytes;
                let refused = || {
                    ObjectError::new(ObjectErrorKind::Failed, name, "other bytes have this name")
                };
                if is_same { Ok(()) } else { Err(refused()) }
            }
            other => other.map_err(|error| self.error(name, error)),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let put = self.runtime.block_on(
            self.store
                .put(&self.path(name)?, PutPayload::from(bytes.to_vec())),
        );
        put.map(drop).map_err(|error| self.error(name, error))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let path = self.path(prefix)?;
        let path = if path.as_ref().is_empty() {
            None
        } else {
            Some(path)
        };
        let own = if self.bucket.prefix.is_empty() {
            String::new()
        } else {
            format!("{}/", self.bucket.prefix)
        };
        let mut found = self.store.list(path.as_ref());
        while let Some(object) = self.runtime.block_on(found.next()) {
            let object = object.map_err(|error| self.error(prefix, error))?;
            if let Some(name) = object.location.as_ref().strip_prefix(&own) {
                visit(name, object.size)?;
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.path(name)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(name, error)),
        }
    }

    fn requests_together(&self) -> usize {
        REQUESTS_TOGETHER
    }

    fn keeps_versions(&self) -> bool {
        self.has_versions.load(Ordering::Relaxed)
    }

    fn describe(&self) -> String {
        address(&self.bucket)
    }
}

/// A whole body, bounded by the longest length of any object, whatever the server says and sends.
async fn read_body(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
) -> Result<Vec<u8>, object_store::Error> {
    let found = store.get_opts(path, options).await?;
    let announced = found.range.end.saturating_sub(found.range.start);
    if announced > OBJECT_LEN_MAX {
        return Err(broken(format!(
            "{announced} bytes: larger than any object of a repository"
        )));
    }
    let mut body = Vec::with_capacity(announced as usize);
    let mut stream = found.into_stream();
    while let Some(piece) = stream.try_next().await? {
        if (body.len() + piece.len()) as u64 > announced {
            return Err(broken("more bytes than were announced".to_owned()));
        }
        body.extend_from_slice(&piece);
    }
    if body.len() as u64 == announced {
        Ok(body)
    } else {
        Err(broken(format!("{} bytes of {announced} came", body.len())))
    }
}

/// An error of the crate as it may be shown, for the investigator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

fn broken(what: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "repository",
        source: what.into(),
    }
}

fn client(
    bucket: &Bucket,
    environment: &Environment,
    retries: usize,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let backoff = BackoffConfig {
        init_backoff: PAUSE_FIRST,
        max_backoff: PAUSE_MAX,
        ..BackoffConfig::default()
    };
    let retry = RetryConfig {
        backoff,
        max_retries: retries,
        retry_timeout: RETRY_TIMEOUT,
    };
    let options = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT);
    let set = variables(bucket.protocol, environment);
    Ok(match bucket.protocol {
        Protocol::S3 => {
            // One object goes at a time, and not every server knows how to delete many.
            let start = AmazonS3Builder::new()
                .with_client_options(options)
                .with_retry(retry)
                .with_disable_bulk_delete(true);
            let builder = set.fold(start, |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Arc::new(builder.with_bucket_name(&bucket.name).build()?)
        }
        Protocol::Gcs => {
            let start = GoogleCloudStorageBuilder::new()
                .with_client_options(options)
                .with_retry(retry);
            let builder = set.fold(start, |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Arc::new(builder.with_bucket_name(&bucket.name).build()?)
        }
        Protocol::Azure => {
            let start = MicrosoftAzureBuilder::new()
                .with_client_options(options)
                .with_retry(retry);
            let builder = set.fold(start, |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Arc::new(builder.with_container_name(&bucket.name).build()?)
        }
    })
}

/// The settings that this protocol's users make, under the names that the crate knows: in lower
/// case.
fn variables(
    protocol: Protocol,
    environment: &Environment,
) -> impl Iterator<Item = (String, String)> {
    let prefixes: &[&str] = match protocol {
        Protocol::S3 => &["AWS_"],
        Protocol::Gcs => &["GOOGLE_", "SERVICE_ACCOUNT"],
        Protocol::Azure => &["AZURE_", "MSI_ENDPOINT", "IDENTITY_ENDPOINT"],
    };
    environment.iter().filter_map(move |(key, value)| {
        let (key, value) = (key.to_str()?, value.to_str()?);
        let is_meant = !value.is_empty() && prefixes.iter().any(|prefix| key.starts_with(prefix));
        is_meant.then(|| (key.to_ascii_lowercase(), value.to_owned()))
    })
}

/// True if nothing can give credentials: there are none, no role of a workload is named, and it is
/// said that this is no virtual machine that has one.
fn lacks_credentials(environment: &Environment) -> bool {
    let is_set = |name: &str| {
        environment
            .get(OsStr::new(name))
            .is_some_and(|value| !value.is_empty())
    };
    let sources = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    is_set("AWS_EC2_METADATA_DISABLED") && !sources.into_iter().any(is_set)
}

/// The values that may be secrets: of all variables of object stores whose name sounds like it.
fn secrets(environment: &Environment) -> Vec<String> {
    let sounds_secret = |key: &str| {
        ["KEY", "SECRET", "TOKEN", "SAS", "PASSWORD"]
            .iter()
            .any(|word| key.contains(word))
    };
    [Protocol::S3, Protocol::Gcs, Protocol::Azure]
        .into_iter()
        .flat_map(|protocol| variables(protocol, environment))
        .filter(|(key, value)| {
            sounds_secret(&key.to_ascii_uppercase()) && value.len() >= SECRET_LEN_MIN
        })
        .map(|(_, value)| value)
        .collect()
}

/// A message of the crate or a server as it may be shown: one line of bounded length, without
/// secrets, queries of URLs and control characters.
fn cleaned(message: &str, secrets: &[String]) -> String {
    let hidden = secrets.iter().fold(message.to_owned(), |text, secret| {
        text.replace(secret.as_str(), "…")
    });
    let words: Vec<&str> = hidden.split_whitespace().collect();
    let words: Vec<String> = words.into_iter().map(without_query).collect();
    words
        .join(" ")
        .chars()
        .filter(|letter| !letter.is_control())
        .take(MESSAGE_LEN_MAX)
        .collect()
}

fn without_query(word: &str) -> String {
    match (word.find("://"), word.find('?')) {
        (Some(_), Some(query)) => format!("{}?…", &word[..query]),
        _ => word.to_owned(),
    }
}

fn address(bucket: &Bucket) -> String {
    let separator = if bucket.prefix.is_empty() { "" } else { "/" };
    format!(
        "{}://{}{separator}{}",
        bucket.protocol.scheme(),
        bucket.name,
        bucket.prefix
    )
}

/// True if the error is one of those by which a store says that it does not know conditional puts.
fn is_unknown_to_the_store(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            true
        }
        object_store::Error::Generic { source, .. } => {
            source.to_string().contains("NotImplemented")
        }
        _ => false,
    }
}
