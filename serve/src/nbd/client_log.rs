//! Log lines about one client, for the person who runs the server: that it came, what it got, what
//! failed or took long, and what it did in all. Without a listener nothing is put into words.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::transmission::{NbdRequest, RequestJob};
use crate::peer::Peer;

/// Takes one line, without its end. Called from many threads.
pub type Report = Arc<dyn Fn(&str) + Send + Sync>;

/// Requests that take longer are told.
const SLOW_TIME: Duration = Duration::from_secs(1);
/// Failures of one client that are told one by one; its last line counts all. A guest repeats what
/// fails, for ever.
const FAILURES_MAX: u64 = 100;

/// The lines about one client.
pub(super) struct ClientLog {
    report: Option<Report>,
    /// As a person reads it; a process may be gone when it is told of.
    peer: String,
    export: OnceLock<String>,
    begun: Instant,
    read_len: AtomicU64,
    written_len: AtomicU64,
    failed: AtomicU64,
}

impl ClientLog {
    pub(super) fn new(report: Option<Report>, peer: &Peer) -> Self {
        let peer = report
            .as_ref()
            .map_or_else(String::new, |_| peer.to_string());
        Self {
            report,
            peer,
            export: OnceLock::new(),
            begun: Instant::now(),
            read_len: AtomicU64::new(0),
            written_len: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// True if anybody listens.
    pub(super) fn is_heard(&self) -> bool {
        self.report.is_some()
    }

    /// The client did not get what it came for, or broke off.
    pub(super) fn turned_away(&self, why: impl Display) {
        self.report_line(|peer| format!("{peer}: {why}"));
    }

    /// The client has entered an export.
    pub(super) fn log_entered(&self, export: &str, read_only: bool) {
        // It enters once.
        let _ = self.export.set(export.to_owned());
        let how = if read_only { "to read" } else { "to write" };
        self.report_line(|peer| format!("{peer}: attached {export}, {how}"));
    }

    /// A request is done, or has failed.
    pub(super) fn log_request(&self, request: &NbdRequest, took: Duration, failure: Option<&str>) {
        match request.job {
            _ if failure.is_some() => 0,
            RequestJob::Read { len, .. } => self.read_len.fetch_add(len.into(), Ordering::Relaxed),
            RequestJob::Write { len, .. } => {
                self.written_len.fetch_add(len.into(), Ordering::Relaxed)
            }
            _ => 0,
        };
        let export = self.export.get().map_or("", String::as_str);
        if let Some(why) = failure {
            if self.failed.fetch_add(1, Ordering::Relaxed) < FAILURES_MAX {
                let what = describe_request(request);
                self.report_line(|peer| format!("{peer}: {export}: {what} failed: {why}"));
            }
        } else if took >= SLOW_TIME {
            let (what, seconds) = (describe_request(request), took.as_secs_f64());
            self.report_line(|peer| format!("{peer}: {export}: {what} took {seconds:.1} s"));
        }
    }

    /// The client has gone.
    pub(super) fn log_left(&self) {
        let Some(export) = self.export.get() else {
            return;
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (read, written, failed) = (
            count(&self.read_len),
            count(&self.written_len),
            count(&self.failed),
        );
        let seconds = self.begun.elapsed().as_secs_f64();
        self.report_line(|peer| {
            format!(
                "{peer}: left {export} after {seconds:.1} s: {read} bytes read, {written} written, \
                 {failed} requests failed"
            )
        });
    }

    fn report_line(&self, line: impl FnOnce(&str) -> String) {
        if let Some(report) = &self.report {
            report(&line(&self.peer));
        }
    }
}

/// A request as a person reads it.
fn describe_request(request: &NbdRequest) -> String {
    match request.job {
        RequestJob::Read { offset, len, .. } => format!("reading {len} bytes at {offset}"),
        RequestJob::Write { offset, len, .. } => format!("writing {len} bytes at {offset}"),
        RequestJob::Zero { offset, len, .. } => format!("zeroing {len} bytes at {offset}"),
        RequestJob::Flush => "a flush".to_owned(),
        RequestJob::Prefetch { offset, len } => format!("prefetching {len} bytes at {offset}"),
        RequestJob::Status { offset, len, .. } => format!("the status of {len} bytes at {offset}"),
        RequestJob::Refuse(..) => format!("a request at {}", request.address.offset),
        RequestJob::Disconnect => "leaving".to_owned(),
    }
}
