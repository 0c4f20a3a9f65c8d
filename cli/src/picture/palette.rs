//! The colours of pictures, by their meaning: one set for light, one for dark, one for paper.
//!
//! Hues are apart also for eyes that confuse red and green, and lightness tells them apart without
//! any hue.

/// Colours as CSS variables, and the classes that pictures use. The variables are the page's as
/// well.
pub(crate) const STYLE: &str = include_str!("palette.css");

#[cfg(test)]
mod tests {
    use super::*;

    /// The contrast that WCAG 2 asks of text and of shapes that mean something.
    const OF_TEXT: f64 = 4.5;
    const OF_SHAPES: f64 = 3.0;

    fn colour(scheme: &str, name: &str) -> f64 {
        let hex = scheme
            .split_once(&format!("--{name}: #"))
            .map(|(_, rest)| &rest[..6])
            .expect("the scheme has this colour");
        let part = |at: usize| {
            f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits")) / 255.0
        };
        let linear = |part: f64| {
            if part <= 0.04045 {
                part / 12.92
            } else {
                ((part + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * linear(part(0)) + 0.7152 * linear(part(2)) + 0.0722 * linear(part(4))
    }

    fn contrast(scheme: &str, one: &str, other: &str) -> f64 {
        let (one, other) = (colour(scheme, one), colour(scheme, other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn nobody_has_to_guess_what_is_written_or_drawn() {
        let schemes: Vec<&str> = STYLE.split(":root").skip(1).collect();
        assert_eq!(schemes.len(), 3, "light, dark and paper");
        for scheme in schemes {
            for text in ["ink", "quiet"] {
                assert!(
                    contrast(scheme, text, "surface") >= OF_TEXT,
                    "{text} in {scheme}"
                );
            }
            for shape in ["alone", "lineage", "siblings", "others", "dead", "overhead"] {
                assert!(
                    contrast(scheme, shape, "surface") >= OF_SHAPES,
                    "{shape} in {scheme}"
                );
            }
            for (text, heats) in [
                ("on-light", &["track", "heat-1", "heat-2", "heat-3"][..]),
                ("on-dark", &["heat-4", "heat-5"]),
            ] {
                for heat in heats {
                    assert!(
                        contrast(scheme, text, heat) >= OF_TEXT,
                        "{text} on {heat} in {scheme}"
                    );
                }
            }
        }
    }
}
