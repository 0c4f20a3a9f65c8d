//! The progress of long work: a bar on a terminal, JSON lines for programs, a line for each
//! SIGUSR1.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vellum_store::{Progress, Watch};

use super::escape::escape_invisible;
use super::screen::Screen;
use super::{Output, OutputLayout, time};
use crate::invocation::Invocation;
use crate::signals::Signals;

/// The default frequency of a bar: smooth for the eye, nothing for the work.
const BAR_FPS: f64 = 10.0;
/// The default frequency of lines.
const LINE_FPS: f64 = 1.0;
/// Faster than any screen.
const FPS_MAX: f64 = 1000.0;
const BAR_STYLE: &str = "{bar:30} {msg}";
const SPINNER_STYLE: &str = "{spinner} {msg}";

/// Takes the progress of work that somebody follows elsewhere.
#[derive(Clone)]
pub(crate) struct ProgressListener(Arc<dyn Fn(String, Progress) + Send + Sync>);

impl ProgressListener {
    pub(crate) fn new(hear: impl Fn(String, Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }
}

impl std::fmt::Debug for ProgressListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProgressListener")
    }
}

/// Watches one piece of work.
pub(crate) struct Meter {
    label: String,
    counts: ProgressUnit,
    caller: Arc<Invocation>,
    display: ProgressDisplay,
    started: Instant,
    interval_ms: u64,
    next_ms: AtomicU64,
    signals: Signals,
}

/// The unit of the count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProgressUnit {
    Bytes(super::Units),
    Things,
}

enum ProgressDisplay {
    Nothing,
    Bar(ProgressBar),
    Lines,
    Json { diverted: bool },
    Listener(ProgressListener),
}

#[derive(Serialize)]
struct ProgressStatus {
    message_type: &'static str,
    done: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    seconds_elapsed: u64,
}

/// The person's wish for progress of long work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgressWish {
    /// Also if standard error is no terminal.
    pub(crate) always: bool,
    /// Times a second; `None` is up to us, zero is never.
    pub(crate) fps: Option<f64>,
    /// Standard output carries an image, so messages go to standard error.
    pub(crate) diverted: bool,
}

impl Meter {
    pub(crate) fn new(
        label: &str,
        counts: ProgressUnit,
        caller: &Arc<Invocation>,
        output: &Output,
        wish: ProgressWish,
        signals: Signals,
    ) -> Self {
        let display = ProgressDisplay::choose_display(caller, output, wish);
        let usual = if matches!(
            display,
            ProgressDisplay::Bar(_) | ProgressDisplay::Listener(_)
        ) {
            BAR_FPS
        } else {
            LINE_FPS
        };
        let interval_ms = match wish.fps.unwrap_or(usual).min(FPS_MAX) {
            fps if fps > 0.0 => (1000.0 / fps) as u64,
            _ => u64::MAX,
        };
        let next_ms = AtomicU64::new(interval_ms);
        let label = escape_invisible(label).into_owned();
        Self {
            label,
            counts,
            caller: Arc::clone(caller),
            display,
            started: Instant::now(),
            interval_ms,
            next_ms,
            signals,
        }
    }

    /// The time that the work has taken.
    pub(crate) fn elapsed_time(&self) -> Duration {
        self.started.elapsed()
    }

    fn show_progress(&self, progress: Progress) {
        match &self.display {
            ProgressDisplay::Nothing => {}
            ProgressDisplay::Bar(bar) => self.draw_bar(bar, progress),
            ProgressDisplay::Listener(ProgressListener(hear)) => {
                hear(self.describe_progress(progress), progress);
            }
            ProgressDisplay::Lines => self
                .caller
                .print_error_line(&self.describe_progress(progress)),
            ProgressDisplay::Json { diverted } => {
                let Progress { done, total } = progress;
                let status = ProgressStatus {
                    message_type: "status",
                    done,
                    total,
                    seconds_elapsed: self.elapsed_time().as_secs(),
                };
                let line = serde_json::to_string(&status).unwrap_or_default();
                if *diverted {
                    self.caller.print_error_line(&line);
                } else {
                    // The summary will meet the same fault, and tell it.
                    let _ = self
                        .caller
                        .streams
                        .output
                        .clone()
                        .write_all(format!("{line}\n").as_bytes());
                }
            }
        }
    }

    fn draw_bar(&self, bar: &ProgressBar, progress: Progress) {
        if let Some(total) = progress.total.filter(|total| bar.length() != Some(*total)) {
            bar.set_style(bar_style(BAR_STYLE));
            bar.set_length(total);
        }
        bar.set_position(progress.done);
        bar.set_message(self.describe_progress(progress));
    }

    /// `importing web: 12 GiB of 40 GiB (30 %), 1.2 GiB/s, 23 s left`
    fn describe_progress(&self, progress: Progress) -> String {
        let elapsed = self.elapsed_time();
        let mut text = format!("{}: {}", self.label, self.format_amount(progress.done));
        if let Some(total) = progress.total.filter(|total| *total > 0) {
            let share = (progress.done as f64 / total as f64).min(1.0);
            let _ = write!(
                text,
                " of {} ({:.0} %)",
                self.format_amount(total),
                100.0 * share
            );
            if share > 0.0 {
                let _ = write!(
                    text,
                    ", {} left",
                    time::format_duration(elapsed.as_secs_f64() * (1.0 - share) / share)
                );
            }
        }
        if let (ProgressUnit::Bytes(units), true) = (self.counts, elapsed.as_millis() > 0) {
            let speed = progress.done as f64 / elapsed.as_secs_f64();
            let _ = write!(text, ", {}/s", units.format_bytes(speed as u64));
        }
        text
    }

    fn format_amount(&self, count: u64) -> String {
        match self.counts {
            ProgressUnit::Bytes(units) => units.format_bytes(count),
            ProgressUnit::Things => count.to_string(),
        }
    }
}

impl Watch for Meter {
    fn report_progress(&self, progress: Progress) {
        if self.signals.take_report() {
            self.caller
                .print_error_line(&self.describe_progress(progress));
        }
        if self.interval_ms == u64::MAX {
            return;
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due_ms = self.next_ms.load(Ordering::Relaxed);
        let next_ms = now_ms.saturating_add(self.interval_ms);
        // Of several threads that find it due, one shows it.
        if now_ms >= due_ms
            && self
                .next_ms
                .compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.show_progress(progress);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.signals.is_stopped()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let ProgressDisplay::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

impl ProgressDisplay {
    fn choose_display(caller: &Invocation, output: &Output, wish: ProgressWish) -> Self {
        let terminal = caller.streams.error.file().is_terminal();
        if let Some(listener) = &caller.progress_listener {
            Self::Listener(listener.clone())
        } else if output.layout != OutputLayout::Human {
            Self::Json {
                diverted: wish.diverted,
            }
        } else if output.quiet || !(terminal || wish.always) {
            Self::Nothing
        } else if terminal {
            // The meter decides when to draw.
            let target = ProgressDrawTarget::term_like_with_hz(
                Box::new(Screen::new(&caller.streams.error)),
                u8::MAX,
            );
            Self::Bar(
                ProgressBar::with_draw_target(None, target).with_style(bar_style(SPINNER_STYLE)),
            )
        } else {
            Self::Lines
        }
    }
}

fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are valid")
}
