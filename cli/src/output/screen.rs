//! The terminal that a progress bar is drawn on: the one of the caller's standard error, not this
//! process's.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

use crate::invocation::Stream;

/// The width of a terminal that does not tell its own, in columns.
const WIDTH: u16 = 80;

/// A terminal. What is drawn appears with the next flush, so that a bar does not flicker.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Stream,
    drawn: Mutex<String>,
}

impl Screen {
    pub(super) fn new(terminal: &Stream) -> Self {
        Self {
            terminal: terminal.clone(),
            drawn: Mutex::default(),
        }
    }

    fn lock_drawn(&self) -> MutexGuard<'_, String> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw_text(&self, text: fmt::Arguments) -> io::Result<()> {
        self.lock_drawn().write_fmt(text).map_err(io::Error::other)
    }

    /// Moves the cursor `count` times; the sequence for none would move it once.
    fn move_cursor(&self, count: usize, direction: char) -> io::Result<()> {
        if count == 0 {
            Ok(())
        } else {
            self.draw_text(format_args!("\u{1b}[{count}{direction}"))
        }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        tcgetwinsize(self.terminal.file()).map_or(WIDTH, |size| {
            if size.ws_col == 0 { WIDTH } else { size.ws_col }
        })
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'A')
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'B')
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'C')
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.move_cursor(count, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw_text(format_args!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw_text(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw_text(format_args!("\r\u{1b}[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.lock_drawn());
        self.terminal.clone().write_all(drawn.as_bytes())
    }
}
