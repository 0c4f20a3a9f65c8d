//! The terminal as cells are drawn on it: escape sequences that every terminal since the VT220
//! knows. It asks the terminal nothing, which may be another process's.

use std::fmt::Write as _;
use std::io::{self, Write};

use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};

/// The alternate screen, without a cursor.
pub(crate) const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J";
/// The screen as it was before.
pub(crate) const LEAVE_SCREEN: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// A terminal of a known size behind a writer. What is drawn is written with the next flush.
pub(crate) struct AnsiBackend<W> {
    writer: W,
    drawn: String,
    size: Size,
}

impl<W: Write> AnsiBackend<W> {
    pub(crate) fn new(writer: W, size: Size) -> Self {
        Self {
            writer,
            drawn: String::new(),
            size,
        }
    }

    pub(crate) fn set_size(&mut self, size: Size) {
        self.size = size;
    }

    /// Writes `sequence` at once.
    pub(crate) fn write_sequence(&mut self, sequence: &str) -> io::Result<()> {
        self.drawn.push_str(sequence);
        self.flush()
    }

    fn push_look(&mut self, cell: &Cell) {
        self.drawn.push_str("\x1b[0");
        for (modifier, number) in [
            (Modifier::BOLD, 1),
            (Modifier::DIM, 2),
            (Modifier::UNDERLINED, 4),
            (Modifier::REVERSED, 7),
        ] {
            if cell.modifier.contains(modifier) {
                let _ = write!(self.drawn, ";{number}");
            }
        }
        if let Some(number) = colour_number(cell.fg) {
            let _ = write!(self.drawn, ";{number}");
        }
        if let Some(number) = colour_number(cell.bg) {
            let _ = write!(self.drawn, ";{}", number + 10);
        }
        self.drawn.push('m');
    }
}

/// The number of a colour of the sixteen that a person chooses for the terminal.
fn colour_number(colour: Color) -> Option<u8> {
    Some(match colour {
        Color::Black => 30,
        Color::Red => 31,
        Color::Green => 32,
        Color::Yellow => 33,
        Color::Blue => 34,
        Color::Magenta => 35,
        Color::Cyan => 36,
        _ => return None,
    })
}

impl<W: Write> Backend for AnsiBackend<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let (mut next, mut look) = (None, None);
        for (x, y, cell) in content {
            // A wide letter moves the cursor further: then its place is said anew.
            if next != Some((x, y)) {
                let _ = write!(self.drawn, "\x1b[{};{}H", y + 1, x + 1);
            }
            let wanted = (cell.fg, cell.bg, cell.modifier);
            if look != Some(wanted) {
                self.push_look(cell);
                look = Some(wanted);
            }
            self.drawn.push_str(cell.symbol());
            next = cell.symbol().is_ascii().then_some((x + 1, y));
        }
        self.drawn.push_str("\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.drawn.push_str("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.drawn.push_str("\x1b[?25h");
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        let _ = write!(self.drawn, "\x1b[{};{}H", y + 1, x + 1);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.drawn.push_str("\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        Ok(self.size)
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize {
            columns_rows: self.size,
            pixels: Size::ZERO,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(self.drawn.as_bytes())?;
        self.drawn.clear();
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use ratatui_core::buffer::Buffer;
    use ratatui_core::layout::Rect;
    use ratatui_core::style::Style;

    use super::*;

    #[test]
    fn neighbours_of_one_look_are_one_run() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 6, 2));
        buffer.set_string(0, 0, "ab", Style::new());
        buffer.set_string(
            0,
            1,
            "日x",
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        );
        let before = Buffer::empty(Rect::new(0, 0, 6, 2));
        let mut backend = AnsiBackend::new(Vec::new(), Size::new(6, 2));
        backend
            .draw(before.diff(&buffer).into_iter())
            .expect("a vector");
        backend.flush().expect("a vector");
        let text = String::from_utf8(backend.writer).expect("text");
        assert_eq!(
            text,
            "\x1b[1;1H\x1b[0mab\x1b[2;1H\x1b[0;1;31m日\x1b[2;3Hx\x1b[0m"
        );
    }
}
