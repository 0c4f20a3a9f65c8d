//! The address of a repository in the user's words: a folder's path, `file://`, or a bucket's
//! address.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Cloud, Folder, ObjectError, ObjectErrorKind, Objects};

/// A caller's variables: credentials of object stores come from there.
pub type Environment = BTreeMap<OsString, OsString>;

/// The address of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder, also on a network's file system or a disk that is carried away.
    Folder(PathBuf),
    /// A bucket of an object store.
    Bucket(Bucket),
}

/// A bucket of an object store, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The protocol of the object store.
    pub protocol: Protocol,
    /// Its name (Azure: container).
    pub name: String,
    /// The common prefix of all names in it: steps joined by slashes, none at either end. May be
    /// empty.
    pub prefix: String,
}

/// The protocol of an object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Amazon's, and of the many that speak like it.
    S3,
    /// Google's.
    Gcs,
    /// Microsoft's.
    Azure,
}

impl Protocol {
    /// The scheme of its addresses.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl Location {
    /// Parses an address. A text without `://` is a path, relative to `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ObjectError> {
        let refuse = |what: &str| ObjectError::new(ObjectErrorKind::Failed, shown(text), what);
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(refuse(
                    "a repository is named by a folder or an address such as s3://bucket/prefix",
                ));
            }
            return Ok(Self::Folder(folder.join(text)));
        };
        let protocol = match scheme {
            "file" if rest.starts_with('/') => return Ok(Self::Folder(rest.into())),
            "file" => {
                return Err(refuse(
                    "an address of a folder has three slashes and no host: file:///path",
                ));
            }
            "s3" => Protocol::S3,
            "gs" => Protocol::Gcs,
            "az" => Protocol::Azure,
            _ => {
                return Err(refuse(
                    "addresses begin with s3://, gs://, az:// or file:///",
                ));
            }
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if name.contains('@') || name.contains(':') {
            return Err(refuse(
                "credentials and hosts do not belong into an address: set them in the environment",
            ));
        }
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err(refuse(
                "the name of a bucket has letters, digits, dots, hyphens and underscores",
            ));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_step) {
            return Err(refuse(
                "the steps behind the bucket have letters, digits and -_.=+ only, and are neither \
                 empty nor dots",
            ));
        }
        Ok(Self::Bucket(Bucket {
            protocol,
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        }))
    }
}

/// Characters that every object store takes as they are, so that no encoding comes between two
/// programs.
fn is_step(step: &str) -> bool {
    !matches!(step, "" | "." | "..")
        && step
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.=+".contains(&byte))
}

/// The address without a part that may be a password: a user may have written one.
fn shown(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}…{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

/// The place that `text` names. Relative paths begin in `folder`; credentials and settings of
/// object stores come from `environment`, under the names that users of the `object_store` crate
/// know (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`,
/// `AZURE_STORAGE_ACCOUNT_NAME` …). Makes no request, and does not ask whether anything is there.
pub fn open_objects(
    text: &str,
    folder: &Path,
    environment: &Environment,
) -> Result<Box<dyn Objects>, ObjectError> {
    match Location::parse(text, folder)? {
        Location::Folder(path) => Ok(Box::new(Folder::new(path))),
        Location::Bucket(bucket) => Ok(Box::new(Cloud::new(&bucket, environment)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_addresses_are_told_apart() {
        let bucket = |protocol, name: &str, prefix: &str| {
            Location::Bucket(Bucket {
                protocol,
                name: name.to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        for (text, expected) in [
            ("backup", Location::Folder("/home/u/backup".into())),
            ("/mnt/usb", Location::Folder("/mnt/usb".into())),
            ("c:/x", Location::Folder("/home/u/c:/x".into())),
            ("file:///mnt/usb", Location::Folder("/mnt/usb".into())),
            ("s3://disks", bucket(Protocol::S3, "disks", "")),
            ("s3://disks/", bucket(Protocol::S3, "disks", "")),
            ("gs://disks/a/b/", bucket(Protocol::Gcs, "disks", "a/b")),
            (
                "az://disks/host=1",
                bucket(Protocol::Azure, "disks", "host=1"),
            ),
        ] {
            assert_eq!(
                Location::parse(text, Path::new("/home/u")).expect(text),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn strange_addresses_are_refused_without_their_password() {
        for text in [
            "",
            "file://host/path",
            "ftp://x/y",
            "s3://",
            "s3:///prefix",
            "s3://b/a//b",
            "s3://b/../a",
            "s3://b/a b",
            "s3://b/a%2fb",
            "s3://b/\u{202e}",
            "s3://key:secret@b/a",
            "s3://b:80/a",
        ] {
            let refused = Location::parse(text, Path::new("/"))
                .expect_err(text)
                .to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
