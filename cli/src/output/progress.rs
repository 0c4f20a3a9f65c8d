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

use super::escape::visible;
use super::screen::Screen;
use super::{Layout, Output, time};
use crate::caller::Caller;
use crate::signals::Signals;

/// The default frequency of a bar: smooth for the eye, nothing for the work.
const BAR_FPS: f64 = 10.0;
/// The default frequency of lines.
const LINE_FPS: f64 = 1.0;
/// Faster than any screen.
const FPS_MAX: f64 = 1000.0;
const BAR_STYLE: &str = "{bar:30} {msg}";
const SPINNER_STYLE: &str = "{spinner} {msg}";

/// Watches one piece of work.
pub(crate) struct Meter {
    label: String,
    counts: Counts,
    caller: Arc<Caller>,
    display: Display,
    started: Instant,
    interval_ms: u64,
    next_ms: AtomicU64,
    signals: Signals,
}

/// The unit of the count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counts {
    Bytes(super::Units),
    Things,
}

enum Display {
    Nothing,
    Bar(ProgressBar),
    Lines,
    Json { diverted: bool },
}

#[derive(Serialize)]
struct Status {
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
        counts: Counts,
        caller: &Arc<Caller>,
        output: &Output,
        wish: ProgressWish,
        signals: Signals,
    ) -> Self {
        let display = Display::choose(caller, output, wish);
        let usual = if matches!(display, Display::Bar(_)) {
            BAR_FPS
        } else {
            LINE_FPS
        };
        let interval_ms = match wish.fps.unwrap_or(usual).min(FPS_MAX) {
            fps if fps > 0.0 => (1000.0 / fps) as u64,
            _ => u64::MAX,
        };
        let next_ms = AtomicU64::new(interval_ms);
        let label = visible(label).into_owned();
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
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn show(&self, progress: Progress) {
        match &self.display {
            Display::Nothing => {}
            Display::Bar(bar) => self.draw(bar, progress),
            Display::Lines => self.caller.say(&self.describe(progress)),
            Display::Json { diverted } => {
                let Progress { done, total } = progress;
                let status = Status {
                    message_type: "status",
                    done,
                    total,
                    seconds_elapsed: self.elapsed().as_secs(),
                };
                let line = serde_json::to_string(&status).unwrap_or_default();
                if *diverted {
                    self.caller.say(&line);
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

    fn draw(&self, bar: &ProgressBar, progress: Progress) {
        if let Some(total) = progress.total.filter(|total| bar.length() != Some(*total)) {
            bar.set_style(style(BAR_STYLE));
            bar.set_length(total);
        }
        bar.set_position(progress.done);
        bar.set_message(self.describe(progress));
    }

    /// `importing web: 12 GiB of 40 GiB (30 %), 1.2 GiB/s, 23 s left`
    fn describe(&self, progress: Progress) -> String {
        let elapsed = self.elapsed();
        let mut text = format!("{}: {}", self.label, self.amount(progress.done));
        if let Some(total) = progress.total.filter(|total| *total > 0) {
            let share = (progress.done as f64 / total as f64).min(1.0);
            let _ = write!(text, " of {} ({:.0} %)", self.amount(total), 100.0 * share);
            if share > 0.0 {
                let _ = write!(
                    text,
                    ", {} left",
                    time::span(elapsed.as_secs_f64() * (1.0 - share) / share)
                );
            }
        }
        if let (Counts::Bytes(units), true) = (self.counts, elapsed.as_millis() > 0) {
            let speed = progress.done as f64 / elapsed.as_secs_f64();
            let _ = write!(text, ", {}/s", units.show(speed as u64));
        }
        text
    }

    fn amount(&self, count: u64) -> String {
        match self.counts {
            Counts::Bytes(units) => units.show(count),
            Counts::Things => count.to_string(),
        }
    }
}

impl Watch for Meter {
    fn progress(&self, progress: Progress) {
        if self.signals.take_report() {
            self.caller.say(&self.describe(progress));
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
            self.show(progress);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.signals.is_stopped()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

impl Display {
    fn choose(caller: &Caller, output: &Output, wish: ProgressWish) -> Self {
        let terminal = caller.streams.error.file().is_terminal();
        if output.layout != Layout::Human {
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
            Self::Bar(ProgressBar::with_draw_target(None, target).with_style(style(SPINNER_STYLE)))
        } else {
            Self::Lines
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are valid")
}
