//! Failures of object stores in words: from a client crate's error, with its causes and a server's
//! answer in XML or JSON, to the kind of the failure and a sentence that says what to do. Pure.
//!
//! Servers differ in their words, and agree in the names of their codes: those are looked for.

use std::error::Error;

use object_store::Error as StoreFailure;

use super::ObjectErrorKind;
use super::location::Protocol;

/// The address at which virtual machines in clouds get their credentials.
const METADATA_ADDRESS: &str = "169.254.169.254";

/// A failure as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudFailure {
    pub(super) kind: ObjectErrorKind,
    /// The sentence. It may hold what the server said.
    pub(super) what: String,
}

/// The variables of a protocol's users.
struct Variables {
    credentials: &'static str,
    endpoint: &'static str,
    container: &'static str,
}

fn variables(protocol: Protocol) -> Variables {
    match protocol {
        Protocol::S3 => Variables {
            credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            endpoint: "AWS_ENDPOINT",
            container: "bucket",
        },
        Protocol::Gcs => Variables {
            credentials: "GOOGLE_SERVICE_ACCOUNT (a file) or GOOGLE_SERVICE_ACCOUNT_KEY",
            endpoint: "GOOGLE_BASE_URL",
            container: "bucket",
        },
        Protocol::Azure => Variables {
            credentials: "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            endpoint: "AZURE_STORAGE_ENDPOINT",
            container: "container",
        },
    }
}

impl CloudFailure {
    /// The failure of a request to the bucket called `bucket`.
    pub(super) fn of(error: &StoreFailure, protocol: Protocol, bucket: &str) -> Self {
        let all = chain(error);
        let said = said(&all);
        if let Some((kind, advice)) = recognised(error, &all, protocol, bucket) {
            let what = said.map_or_else(|| advice.clone(), |said| format!("{advice} ({said})"));
            return Self { kind, what };
        }
        // The innermost cause says most in the fewest words; the others are for the investigator.
        let what = said.unwrap_or_else(|| all.last().cloned().unwrap_or_default());
        Self {
            kind: kind_of(error, &all),
            what,
        }
    }
}

/// The error and its causes, each in its own words.
fn chain(error: &StoreFailure) -> Vec<String> {
    let first: &dyn Error = error;
    std::iter::successors(Some(first), |error| (*error).source())
        .map(ToString::to_string)
        .collect()
}

/// Words of an answer for a bucket or container that does not exist.
const NO_CONTAINER_WORDS: [&str; 3] = [
    "NoSuchBucket",
    "ContainerNotFound",
    "specified bucket does not exist",
];
/// Words of an error for a server that could not be reached.
const UNREACHABLE_WORDS: [&str; 5] = [
    "dns error",
    "failed to lookup",
    "Connection refused",
    "No route to host",
    "Network is unreachable",
];

/// Words of an answer for an object that is retained: those of S3's object lock, of GCS and of
/// Azure.
const RETAINED_WORDS: [&str; 6] = [
    "object lock",
    "Object Lock",
    "WORM protected",
    "retentionPolicyNotMet",
    "BlobImmutableDueToPolicy",
    "BlobImmutableDueToLegalHold",
];

/// A failure of which it is known what to do: its kind and the advice.
fn recognised(
    error: &StoreFailure,
    all: &[String],
    protocol: Protocol,
    bucket: &str,
) -> Option<(ObjectErrorKind, String)> {
    use ObjectErrorKind::{Denied, Failed, Full, Unreachable};
    let variables = variables(protocol);
    let has = |words: &[&str]| {
        let is_in = |text: &String| words.iter().any(|word| text.contains(word));
        all.iter().any(is_in)
    };
    let (credentials, endpoint) = (variables.credentials, variables.endpoint);
    let advice = if has(&NO_CONTAINER_WORDS) {
        let container = variables.container;
        let advice = format!(
            "there is no {container} {bucket:?}: make it first, or correct its name; {endpoint} \
             says on which server it is"
        );
        (Failed, advice)
    } else if has(&[METADATA_ADDRESS, "metadata.google.internal"]) {
        (Denied, format!("no credentials are set: set {credentials}"))
    } else if has(&["invalid peer certificate"]) {
        let advice = "the server's certificate is not trusted: SSL_CERT_FILE can name a file with \
                      the certificate of who issued it";
        (Failed, with_cause(advice, all))
    } else if has(&["URL scheme is not allowed", "BadScheme"]) {
        let advice = format!("{endpoint} is an http:// address: AWS_ALLOW_HTTP=true permits it");
        (Failed, advice)
    } else if has(&RETAINED_WORDS) {
        (Denied, "the place retains it".to_owned())
    } else if has(&["RequestTimeTooSkewed"]) {
        let advice = "this machine's clock and the server's differ too much: set the clock";
        (Denied, advice.to_owned())
    } else if has(&["ExpiredToken", "InvalidToken", "TokenRefreshRequired"]) {
        (
            Denied,
            "the session's token is no longer good: set AWS_SESSION_TOKEN anew".to_owned(),
        )
    } else if has(&[
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "without LOCATION",
    ]) {
        (
            Failed,
            "the bucket is in another region: set AWS_REGION".to_owned(),
        )
    } else if has(&[
        "QuotaExceeded",
        "507 ",
        "XMinioStorageFull",
        "EntityTooLarge",
    ]) {
        (Full, "the store has no room".to_owned())
    } else if is_refused(error) {
        let advice =
            format!("the server does not accept the credentials for this: check {credentials}");
        (Denied, advice)
    } else if has(&UNREACHABLE_WORDS) {
        let advice = format!("nobody can be reached there: {endpoint} says which server is meant");
        (Unreachable, with_cause(&advice, all))
    } else {
        return None;
    };
    Some(advice)
}

fn is_refused(error: &StoreFailure) -> bool {
    matches!(
        error,
        StoreFailure::PermissionDenied { .. } | StoreFailure::Unauthenticated { .. }
    )
}

/// The advice with the innermost cause, which says what really happened.
fn with_cause(advice: &str, all: &[String]) -> String {
    all.last()
        .map_or_else(|| advice.to_owned(), |cause| format!("{advice} ({cause})"))
}

/// The server's own words: its code and message.
fn said(all: &[String]) -> Option<String> {
    let between = |text: &str, begin: &str, end: &str| {
        let rest = text.split_once(begin)?.1;
        Some(rest.split_once(end)?.0.trim().to_owned()).filter(|text| !text.is_empty())
    };
    all.iter().find_map(|text| {
        let code = between(text, "<Code>", "</Code>");
        let message = between(text, "<Message>", "</Message>")
            .or_else(|| between(text, "\"message\": \"", "\""));
        match (code, message) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (code, message) => code.or(message),
        }
    })
}

/// The kind of a failure that is none of the recognised.
fn kind_of(error: &StoreFailure, all: &[String]) -> ObjectErrorKind {
    let has_status = |status: &str| {
        let status = format!("status code: {status}");
        all.iter().any(|text| text.contains(&status))
    };
    match error {
        StoreFailure::NotFound { .. } => ObjectErrorKind::Missing,
        // The object is shorter than the range.
        StoreFailure::Generic { .. } if has_status("416") => ObjectErrorKind::Doubtful,
        StoreFailure::Generic { .. }
            if has_status("4") && !has_status("408") && !has_status("429") =>
        {
            ObjectErrorKind::Failed
        }
        StoreFailure::Generic { .. } => ObjectErrorKind::Passing,
        _ => ObjectErrorKind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a cause below it, as clients nest them.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Nested(String, #[source] Option<Box<Self>>);

    fn nested(texts: &[&str]) -> Nested {
        let cause = texts.get(1..).filter(|rest| !rest.is_empty());
        Nested(
            texts[0].to_owned(),
            cause.map(|rest| Box::new(nested(rest))),
        )
    }

    fn generic(texts: &[&str]) -> StoreFailure {
        StoreFailure::Generic {
            store: "S3",
            source: Box::new(nested(texts)),
        }
    }

    fn missing(code: &str) -> StoreFailure {
        StoreFailure::NotFound {
            path: "x".to_owned(),
            source: Box::new(nested(&[&answer("404 Not Found", code)])),
        }
    }

    fn denied(code: &str) -> StoreFailure {
        StoreFailure::PermissionDenied {
            path: "x".to_owned(),
            source: Box::new(nested(&[&answer("403 Forbidden", code)])),
        }
    }

    /// An answer of another status.
    fn other(status: &str, code: &str) -> StoreFailure {
        generic(&[&answer(status, code)])
    }

    fn answer(status: &str, code: &str) -> String {
        format!(
            "Error performing GET http://host/b/x in 1ms - Server returned non-2xx status code: \
             {status}: <?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Some words.\
             </Message></Error>"
        )
    }

    #[test]
    fn what_is_to_be_done_is_told_with_the_variable() {
        use ObjectErrorKind::{Denied, Doubtful, Failed, Full, Missing, Passing, Unreachable};
        let sending = "error sending request";
        let certificate = generic(&[sending, "invalid peer certificate: UnknownIssuer"]);
        let refused = generic(&[sending, "Connection refused (os error 111)"]);
        for (error, kind, words) in [
            (missing("NoSuchKey"), Missing, "NoSuchKey"),
            (missing("NoSuchBucket"), Failed, "AWS_ENDPOINT"),
            (denied("InvalidAccessKeyId"), Denied, "AWS_ACCESS_KEY_ID"),
            (denied("AccessDenied"), Denied, "AccessDenied: Some words."),
            (denied("RequestTimeTooSkewed"), Denied, "clock"),
            (
                denied("AccessDenied because object protected by object lock."),
                Denied,
                "retains",
            ),
            (denied("QuotaExceeded"), Full, "no room"),
            (
                other("400 Bad", "ExpiredToken"),
                Denied,
                "AWS_SESSION_TOKEN",
            ),
            (
                other("301 Moved", "PermanentRedirect"),
                Failed,
                "AWS_REGION",
            ),
            (other("416 Range", "InvalidRange"), Doubtful, "InvalidRange"),
            (other("400 Bad", "Strange"), Failed, "Strange"),
            (other("503 Slow", "SlowDown"), Passing, "SlowDown"),
            (other("429 Slow", "SlowDown"), Passing, "SlowDown"),
            (
                generic(&["GET http://169.254.169.254/"]),
                Denied,
                "AWS_SECRET_ACCESS_KEY",
            ),
            (certificate, Failed, "SSL_CERT_FILE"),
            (refused, Unreachable, "Connection refused"),
            (
                generic(&[sending, "connection closed"]),
                Passing,
                "connection closed",
            ),
        ] {
            let failure = CloudFailure::of(&error, Protocol::S3, "disks");
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(failure.what.contains(words), "{failure:?}");
            assert!(!failure.what.contains("<Code>") && !failure.what.contains("169.254"));
        }
    }
}
