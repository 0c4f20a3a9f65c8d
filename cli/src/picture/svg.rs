//! Shapes and text as SVG: across in shares of the width, down in pixels.

use std::fmt::{self, Write as _};

use super::palette::STYLE;
use super::text::escape_markup;

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
pub(super) struct HorizontalPosition {
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
    pub(crate) fn inline_svg(&self) -> String {
        self.svg_element("width=\"100%\"", "", &self.shapes.markup, self.height)
    }

    /// A file of its own, with its colours and a ground.
    pub(crate) fn standalone_svg(&self) -> String {
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
            self.svg_element(&size, &style, &content, height)
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

    fn svg_element(&self, size: &str, style: &str, content: &str, height: u32) -> String {
        let (id, title, description) = (
            &self.id,
            escape_markup(&self.title),
            escape_markup(&self.description),
        );
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"picture\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-desc\" {size} height=\"{height}\">\n\
             <title id=\"{id}-title\">{title}</title>\n\
             <desc id=\"{id}-desc\">{description}</desc>\n{style}{content}</svg>\n"
        )
    }
}

impl HorizontalPosition {
    pub(super) const START: Self = Self::at_pixels(0);
    pub(super) const END: Self = Self::at_percent(100.0);

    pub(super) const fn at_percent(percent: f64) -> Self {
        Self { percent, pixels: 0 }
    }

    pub(super) const fn at_pixels(pixels: i32) -> Self {
        Self {
            percent: 0.0,
            pixels,
        }
    }

    pub(super) const fn plus_pixels(self, pixels: i32) -> Self {
        Self {
            percent: self.percent,
            pixels: self.pixels + pixels,
        }
    }

    /// The pixels, as an attribute: percentages and pixels do not mix in one number.
    fn translate_attribute(self) -> String {
        if self.pixels == 0 {
            String::new()
        } else {
            format!(" transform=\"translate({} 0)\"", self.pixels)
        }
    }
}

impl Shapes {
    /// A bar from `x` of `percent` of the width. `tip` is the text shown to a pointer over it.
    pub(super) fn add_bar(
        &mut self,
        class: &str,
        x: HorizontalPosition,
        percent: f64,
        y: u32,
        height: u32,
        tip: &str,
    ) {
        let (at, shift, width) = (
            SvgNumber(x.percent),
            x.translate_attribute(),
            SvgNumber(percent),
        );
        let tip = if tip.is_empty() {
            String::new()
        } else {
            format!("<title>{}</title>", escape_markup(tip))
        };
        self.push_markup(format_args!(
            "<rect class=\"{class}\" x=\"{at}%\" y=\"{y}\" width=\"{width}%\" \
             height=\"{height}\"{shift}>{tip}</rect>\n"
        ));
    }

    /// A square of fixed size, as legends have.
    pub(super) fn add_square(&mut self, class: &str, x: HorizontalPosition, y: u32, size: u32) {
        let (at, shift) = (SvgNumber(x.percent), x.translate_attribute());
        self.push_markup(format_args!(
            "<rect class=\"{class}\" x=\"{at}%\" y=\"{y}\" width=\"{size}\" \
             height=\"{size}\" rx=\"2\"{shift}/>\n"
        ));
    }

    /// One line of text on the base line `y`.
    pub(super) fn add_text(&mut self, class: &str, x: HorizontalPosition, y: u32, text: &str) {
        let (at, shift, text) = (
            SvgNumber(x.percent),
            x.translate_attribute(),
            escape_markup(text),
        );
        self.push_markup(format_args!(
            "<text class=\"{class}\" x=\"{at}%\" y=\"{y}\"{shift}>{text}</text>\n"
        ));
    }

    /// One line of text that may be shorter than what is told to who points at it.
    pub(super) fn add_name(
        &mut self,
        class: &str,
        x: HorizontalPosition,
        y: u32,
        columns: usize,
        name: &str,
    ) {
        let shown = super::text::fit_text(name, columns);
        let tip = if shown == name {
            String::new()
        } else {
            format!("<title>{}</title>", escape_markup(name))
        };
        let (at, shift, shown) = (
            SvgNumber(x.percent),
            x.translate_attribute(),
            escape_markup(&shown),
        );
        self.push_markup(format_args!(
            "<text class=\"{class}\" x=\"{at}%\" y=\"{y}\"{shift}>{tip}{shown}</text>\n"
        ));
    }

    /// A line between two places that are pixels from the left.
    pub(super) fn add_line(&mut self, class: &str, from: (i32, u32), to: (i32, u32)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push_markup(format_args!(
            "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>\n"
        ));
    }

    /// A line across everything.
    pub(super) fn add_rule(&mut self, class: &str, y: u32) {
        self.push_markup(format_args!(
            "<line class=\"{class}\" x1=\"0\" y1=\"{y}\" x2=\"100%\" y2=\"{y}\"/>\n"
        ));
    }

    /// A circle at a place that is pixels from the left.
    pub(super) fn add_circle(&mut self, class: &str, x: i32, y: u32, radius: u32) {
        self.push_markup(format_args!(
            "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>\n"
        ));
    }

    /// Explains colours, two to a line from `y` on; how high that is.
    pub(super) fn add_legend(&mut self, y: u32, entries: &[(&str, &str)]) -> u32 {
        for (nth, (class, meaning)) in entries.iter().enumerate() {
            let x = if nth % 2 == 0 {
                HorizontalPosition::START
            } else {
                HorizontalPosition::at_percent(50.0)
            };
            let top = y + LEGEND_LINE * (nth as u32 / 2);
            self.add_square(class, x, top + 3, 12);
            self.add_text("quiet", x.plus_pixels(18), top + 13, meaning);
        }
        LEGEND_LINE * (entries.len() as u32).div_ceil(2)
    }

    fn push_markup(&mut self, arguments: fmt::Arguments) {
        self.markup
            .write_fmt(arguments)
            .expect("a string takes everything");
    }
}

const LEGEND_LINE: u32 = 20;

/// A number with two digits behind the point, and none where they are zeros.
struct SvgNumber(f64);

impl fmt::Display for SvgNumber {
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
            assert_eq!(SvgNumber(number).to_string(), text);
        }
    }
}
