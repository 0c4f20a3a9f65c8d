//! Jobs: command lines that run beside the pages, how far they are, and how they ended. It knows no
//! HTTP.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::operations::{CommandEnd, CommandSink, CommandWatch, Operations};

/// Jobs that run at once: more would wait for each other's disk.
const RUNNING_MAX: usize = 8;
/// Jobs that are remembered: about what a person scrolls through.
const HISTORY_MAX: usize = 200;
/// The exit code of a command that panicked, as a process has it.
const PANIC_CODE: u8 = 101;

/// One job.
pub(crate) struct CommandJob {
    pub(crate) number: u64,
    /// The title for people.
    pub(crate) title: String,
    pub(crate) words: Vec<String>,
    pub(crate) began_ms: u64,
    pub(crate) watch: Arc<CommandWatch>,
    /// The whole name of what is looked at next.
    pub(crate) next: Option<String>,
    /// The file that it makes for the browser.
    pub(crate) download: Option<DownloadFile>,
    end: Mutex<Option<JobEnd>>,
    ended: Condvar,
}

/// A wish for a job.
pub(crate) struct JobOrder {
    pub(crate) title: String,
    pub(crate) words: Vec<String>,
    pub(crate) sink: CommandSink,
    pub(crate) next: Option<String>,
    pub(crate) download: Option<DownloadFile>,
    /// Work that follows it, whatever its end.
    pub(crate) aftermath: Option<JobAftermath>,
}

/// A file that is made to be downloaded: it goes with its job.
pub(crate) struct DownloadFile {
    pub(crate) path: PathBuf,
    /// The name that the browser gives it.
    pub(crate) name: String,
}

impl Drop for DownloadFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The end of a job.
#[derive(Clone, Debug)]
pub(crate) struct JobEnd {
    pub(crate) ended_ms: u64,
    pub(crate) end: CommandEnd,
}

/// All jobs of this run.
#[derive(Default)]
pub(crate) struct JobTable {
    jobs: Mutex<VecDeque<Arc<CommandJob>>>,
    next: AtomicU64,
    /// Counts beginnings and ends.
    changes: AtomicU64,
}

/// The reason why no job was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobRefusal {
    #[error("{RUNNING_MAX} jobs are running already")]
    TooMany,
    #[error("the system gives no thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Work that follows a job, whatever its end.
pub(crate) type JobAftermath = Box<dyn FnOnce(&CommandEnd) + Send>;

impl CommandJob {
    pub(crate) fn job_end(&self) -> Option<JobEnd> {
        self.lock_end().clone()
    }

    /// Waits until it has ended, but no longer than `patience`.
    pub(crate) fn await_end(&self, patience: Duration) -> Option<JobEnd> {
        let end = self.lock_end();
        let waited = self
            .ended
            .wait_timeout_while(end, patience, |end| end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The command line as a person types it. A file that is made for the browser is in the store's
    /// folder, which no page tells.
    pub(crate) fn command_line(&self) -> String {
        let path = self
            .download
            .as_ref()
            .map(|file| file.path.to_string_lossy().into_owned());
        let shown = |word: &String| match (&path, &self.download) {
            (Some(path), Some(file)) if path == word => file.name.clone(),
            _ => word.clone(),
        };
        shell_line(&self.words.iter().map(shown).collect::<Vec<_>>())
    }

    /// The part that is done, in hundredths, if that is known.
    pub(crate) fn progress_share(&self) -> Option<u64> {
        let note = self.watch.last_progress()?;
        let total = note.total.filter(|total| *total > 0)?;
        Some((100 * u128::from(note.done.min(total)) / u128::from(total)) as u64)
    }

    fn lock_end(&self) -> MutexGuard<'_, Option<JobEnd>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobEnd {
    /// The class of the end, and a word for it.
    pub(crate) fn end_word(&self) -> (&'static str, &'static str) {
        match self.end.code {
            0 => ("done", "done"),
            3 => ("warning", "done with losses"),
            130 | 143 => ("note", "cancelled"),
            _ => ("error", "failed"),
        }
    }
}

impl JobTable {
    /// Begins a job.
    pub(crate) fn begin_job(
        self: &Arc<Self>,
        operations: &Arc<dyn Operations>,
        order: JobOrder,
    ) -> Result<Arc<CommandJob>, JobRefusal> {
        let job = {
            let mut jobs = self.lock_jobs();
            let running = jobs.iter().filter(|job| job.job_end().is_none()).count();
            if running >= RUNNING_MAX {
                return Err(JobRefusal::TooMany);
            }
            let job = Arc::new(CommandJob {
                number: self.next.fetch_add(1, Ordering::Relaxed) + 1,
                title: order.title,
                words: order.words,
                began_ms: now_ms(),
                watch: Arc::default(),
                next: order.next,
                download: order.download,
                end: Mutex::default(),
                ended: Condvar::new(),
            });
            jobs.push_back(Arc::clone(&job));
            let old = jobs.iter().position(|job| job.job_end().is_some());
            if let (true, Some(old)) = (jobs.len() > HISTORY_MAX, old) {
                jobs.remove(old);
            }
            job
        };
        self.changes.fetch_add(1, Ordering::Relaxed);
        let (table, own, operations) = (Arc::clone(self), Arc::clone(&job), Arc::clone(operations));
        let spawned = thread::Builder::new()
            .name("job".to_owned())
            .spawn(move || table.run_job(&own, operations.as_ref(), order.sink, order.aftermath));
        if let Err(error) = spawned {
            self.lock_jobs().retain(|other| other.number != job.number);
            return Err(error.into());
        }
        Ok(job)
    }

    fn run_job(
        &self,
        job: &CommandJob,
        operations: &dyn Operations,
        sink: CommandSink,
        aftermath: Option<JobAftermath>,
    ) {
        let run = || operations.run_command(&job.words, sink, &job.watch);
        // A fault in one command ends that command, as it would end its process.
        let end = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| CommandEnd {
            code: PANIC_CODE,
            messages: "error: this command met a fault in vellum and was given up\n".to_owned(),
            ..CommandEnd::default()
        });
        if let Some(aftermath) = aftermath {
            aftermath(&end);
        }
        let ended_ms = now_ms();
        *job.lock_end() = Some(JobEnd { ended_ms, end });
        self.changes.fetch_add(1, Ordering::Relaxed);
        job.ended.notify_all();
    }

    /// The job of this number.
    pub(crate) fn find_job(&self, number: u64) -> Option<Arc<CommandJob>> {
        let jobs = self.lock_jobs();
        jobs.iter().find(|job| job.number == number).cloned()
    }

    /// All jobs that are remembered, the newest first.
    pub(crate) fn list_jobs(&self) -> Vec<Arc<CommandJob>> {
        self.lock_jobs().iter().rev().cloned().collect()
    }

    pub(crate) fn running_jobs(&self) -> Vec<Arc<CommandJob>> {
        let jobs = self.lock_jobs();
        let running = jobs.iter().filter(|job| job.job_end().is_none());
        running.cloned().collect()
    }

    /// A number that is another one after each beginning and each end.
    pub(crate) fn change_count(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Stops all that run, and waits for them, but no longer than `patience`. True if all ended.
    pub(crate) fn stop_all(&self, patience: Duration) -> bool {
        let deadline = std::time::Instant::now() + patience;
        let running = self.running_jobs();
        running.iter().for_each(|job| job.watch.stop_command());
        running.iter().all(|job| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            job.await_end(left).is_some()
        })
    }

    fn lock_jobs(&self) -> MutexGuard<'_, VecDeque<Arc<CommandJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The age of what is of the moment `since_ms`, for people.
pub(crate) fn age_text(since_ms: u64, now_ms: u64) -> String {
    let minutes = now_ms.saturating_sub(since_ms) / 60_000;
    let (count, unit) = match minutes {
        0 => return "less than a minute".to_owned(),
        1..60 => (minutes, "minute"),
        60..2880 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A length of time for people.
pub(crate) fn seconds_text(ms: u64) -> String {
    match ms / 1000 {
        0..60 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        seconds @ 60..3600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        seconds => format!("{}:{:02} h", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `words` as a shell takes them, behind the program's name.
pub(crate) fn shell_line(words: &[String]) -> String {
    let is_plain = |word: &str| {
        let plain = |letter: char| letter.is_alphanumeric() || "-_=+@./:,%".contains(letter);
        !word.is_empty() && word.chars().all(plain)
    };
    words.iter().fold("vellum".to_owned(), |line, word| {
        if is_plain(word) {
            format!("{line} {word}")
        } else {
            format!("{line} '{}'", word.replace('\'', r"'\''"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_the_unit_that_people_would_use() {
        const MINUTE: u64 = 60_000;
        for (ms, text) in [
            (0, "less than a minute"),
            (MINUTE - 1, "less than a minute"),
            (MINUTE, "1 minute"),
            (59 * MINUTE, "59 minutes"),
            (60 * MINUTE, "1 hour"),
            (47 * 60 * MINUTE, "47 hours"),
            (48 * 60 * MINUTE, "2 days"),
        ] {
            assert_eq!(age_text(1000, 1000 + ms), text);
        }
        // A clock that was put back.
        assert_eq!(age_text(1000, 0), "less than a minute");
    }

    #[test]
    fn a_command_line_can_be_typed() {
        for (words, line) in [
            (&["rm", "web@monday"][..], "vellum rm web@monday"),
            (&["create", "a b", "1G"], "vellum create 'a b' 1G"),
            (
                &["tag", "web", "--add=it's"],
                r"vellum tag web '--add=it'\''s'",
            ),
            (&["info", ""], "vellum info ''"),
            (&["info", "$(id)"], "vellum info '$(id)'"),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(shell_line(&words), line);
        }
    }
}
