//! Shapes and text as SVG: across in shares of the width, down in pixels.

use std::fmt::{self, Write as _};

use super::palette::STYLE;
use super::text::markup;

/// The width of a picture in a file of its own, in pixels: a phone shows it at half size, and still
/// legibly.
const OWN_WIDTH: u32 = 640;
/// Around a picture in a file of its own, in pixels.
const OWN_MARGIN: u32 = 16;

/// A picture, for a page or for a file of its own.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// Names its parts: no two pictures of a page have the same.
    pub(super) id: String,
    /// The title: its subject in a few words.
    pub(super) title: String,
    /// The same for who does not see it, with the figures that matter.
    pub(super) description: String,
    /// In pixels.
    pub(super) height: u32,
    pub(super) shapes: Shapes,
}

/// A place across: a share of the width in percent, and pixels beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Across {
    pub(super) percent: f64,
    pub(super) pixels: i32,
}

/// Shapes, in the order in which they are painted.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    markup: String,
}

impl Picture {
    /// The picture for a page that has [`STYLE`].
    pub(crate) fn inline(&self) -> String {
        self.element("width=\"100%\"", "", &self.shapes.markup, self.height)
    }

    /// A file of its own, with its colours and a ground.
    pub(crate) fn file(&self) -> String {
        let (width, height) = (OWN_WIDTH + 2 * OWN_MARGIN, self.height + 2 * OWN_MARGIN);
        let size = format!("width=\"{width}\" viewBox=\"0 0 {width} {height}\"");
        let style = format!("<style>\n{STYLE}</style>\n");
        let content = format!(
            "<rect class=\"surface\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n\
             <svg x=\"{OWN_MARGIN}\" y=\"{OWN_MARGIN}\" width=\"{OWN_WIDTH}\" height=\"{}\">\n\
             {}</svg>\n",
            self.height, self.shapes.markup
        );
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}",
            self.element(&size, &style, &content, height)
        )
    }

    /// The name of its file, without the ending.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The title: its subject in a few words.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The same with the figures that matter.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    fn element(&self, size: &str, style: &str, content: &str, height: u32) -> String {
        let (id, title, description) = (&self.id, markup(&self.title), markup(&self.description));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"picture\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-desc\" {size} height=\"{height}\">\n\
             <title id=\"{id}-title\">{title}</title>\n\
             <desc id=\"{id}-desc\">{description}</desc>\n{style}{content}</svg>\n"
        )
    }
}

impl Across {
    pub(super) const START: Self = Self::pixels(0);
    pub(super) const END: Self = Self::percent(100.0);

    pub(super) const fn percent(percent: f64) -> Self {
        Self { percent, pixels: 0 }
    }

    pub(super) const fn pixels(pixels: i32) -> Self {
        Self {
            percent: 0.0,
            pixels,
        }
    }

    pub(super) const fn and(self, pixels: i32) -> Self {
        Self {
            percent: self.percent,
            pixels: self.pixels + pixels,
        }
    }

    /// The pixels, as an attribute: percentages and pixels do not mix in one number.
    fn shift(self) -> String {
        if self.pixels == 0 {
            String::new()
        } else {
            format!(" transform=\"translate({} 0)\"", self.pixels)
        }
    }
}

impl Shapes {
    /// A bar from `x` of `percent` of the width. `tip` is the text shown to a pointer over it.
    pub(super) fn bar(
        &mut self,
        class: &str,
        x: Across,
        percent: f64,
        y: u32,
        height: u32,
        tip: &str,
    ) {
        let (at, shift, width) = (Number(x.percent), x.shift(), Number(percent));
        let tip = if tip.is_empty() {
            String::new()
        } else {
            format!("<title>{}</title>", markup(tip))
        };
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{at}%\" y=\"{y}\" width=\"{width}%\" \
             height=\"{height}\"{shift}>{tip}</rect>\n"
        ));
    }

    /// A square of fixed size, as legends have.
    pub(super) fn square(&mut self, class: &str, x: Across, y: u32, size: u32) {
        let (at, shift) = (Number(x.percent), x.shift());
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{at}%\" y=\"{y}\" width=\"{size}\" \
             height=\"{size}\" rx=\"2\"{shift}/>\n"
        ));
    }

    /// One line of text on the base line `y`.
    pub(super) fn text(&mut self, class: &str, x: Across, y: u32, text: &str) {
        let (at, shift, text) = (Number(x.percent), x.shift(), markup(text));
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{at}%\" y=\"{y}\"{shift}>{text}</text>\n"
        ));
    }

    /// One line of text that may be shorter than what is told to who points at it.
    pub(super) fn name(&mut self, class: &str, x: Across, y: u32, columns: usize, name: &str) {
        let shown = super::text::fit(name, columns);
        let tip = if shown == name {
            String::new()
        } else {
            format!("<title>{}</title>", markup(name))
        };
        let (at, shift, shown) = (Number(x.percent), x.shift(), markup(&shown));
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{at}%\" y=\"{y}\"{shift}>{tip}{shown}</text>\n"
        ));
    }

    /// A line between two places that are pixels from the left.
    pub(super) fn line(&mut self, class: &str, from: (i32, u32), to: (i32, u32)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>\n"
        ));
    }

    /// A line across everything.
    pub(super) fn rule(&mut self, class: &str, y: u32) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"0\" y1=\"{y}\" x2=\"100%\" y2=\"{y}\"/>\n"
        ));
    }

    /// A circle at a place that is pixels from the left.
    pub(super) fn circle(&mut self, class: &str, x: i32, y: u32, radius: u32) {
        self.push(format_args!(
            "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>\n"
        ));
    }

    /// Explains colours, two to a line from `y` on; how high that is.
    pub(super) fn legend(&mut self, y: u32, entries: &[(&str, &str)]) -> u32 {
        for (nth, (class, meaning)) in entries.iter().enumerate() {
            let x = if nth % 2 == 0 {
                Across::START
            } else {
                Across::percent(50.0)
            };
            let top = y + LEGEND_LINE * (nth as u32 / 2);
            self.square(class, x, top + 3, 12);
            self.text("quiet", x.and(18), top + 13, meaning);
        }
        LEGEND_LINE * (entries.len() as u32).div_ceil(2)
    }

    fn push(&mut self, arguments: fmt::Arguments) {
        self.markup
            .write_fmt(arguments)
            .expect("a string takes everything");
    }
}

const LEGEND_LINE: u32 = 20;

/// A number with two digits behind the point, and none where they are zeros.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        f.write_str(if text == "-0" { "0" } else { text })
    }
}

/// `part` of `whole` in percent; nothing of nothing.
pub(super) fn percent_of(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (-0.001, "0"),
            (12.5, "12.5"),
            (100.0, "100"),
            (33.333, "33.33"),
        ] {
            assert_eq!(Number(number).to_string(), text);
        }
    }
}
