//! The pages, as HTML whose texts are escaped by their type. They show what they are given, and
//! decide nothing.

pub(crate) mod actions;
pub(crate) mod compare;
pub(crate) mod folder;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod machines;
pub(crate) mod node;
pub(crate) mod sign_in;
pub(crate) mod store;
pub(crate) mod tree;

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};

use crate::operations::{StoreFacts, message_lines};

/// The frame around the pane of a page.
pub(crate) struct PageFrame<'a> {
    pub(crate) facts: &'a StoreFacts,
    pub(crate) title: &'a str,
    /// The tree beside the pane.
    pub(crate) tree: Markup,
    pub(crate) pane: Markup,
    /// True if the pane is what the person came for, and comes first on a narrow screen.
    pub(crate) is_pane_first: bool,
    pub(crate) running: usize,
    /// True if leaving means something: who has a token would need another one.
    pub(crate) can_sign_out: bool,
}

impl PageFrame<'_> {
    pub(crate) fn render_frame(&self) -> Markup {
        let class = if self.is_pane_first {
            "in-pane"
        } else {
            "in-tree"
        };
        let body = html! {
            body class=(class) {
                a.skip href="#pane" { "Skip to the details" }
                header.bar {
                    a.brand href="/" aria-label="Vellum" data-pane {
                        (brand_sign())
                        span { "Vellum" }
                    }
                    span.store title="the store's folder" { (self.facts.folder) }
                    @if self.facts.read_only_reason.is_some() { span.badge { "read only" } }
                    nav aria-label="Pages" {
                        a href="/store" data-pane { "Store" }
                        a href="/machines" data-pane { "Machines" }
                        a href="/backups" data-pane { "Backups" }
                        a href="/jobs" data-pane {
                            "Jobs" span.count #running hidden[self.running == 0] { (self.running) }
                        }
                        a href="/keys" data-pane title="Keys and signs" { "?" }
                    }
                    @if self.can_sign_out {
                        form method="post" action="/session/end" {
                            button type="submit" { "Sign out" }
                        }
                    }
                }
                p #link-state role="status" aria-live="polite" hidden {}
                div.panes {
                    section.tree #tree aria-label="Images and snapshots" { (self.tree) }
                    main.pane #pane tabindex="0" aria-label="Details" { (self.pane) }
                }
                p #said.unseen role="status" aria-live="polite" {}
            }
        };
        render_document(self.title, body)
    }
}

/// A whole document.
pub(crate) fn render_document(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Vellum" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/app.css";
                script src="/app.js" defer {}
            }
            (body)
        }
    }
}

fn brand_sign() -> Markup {
    html! {
        svg.sign viewBox="0 0 16 16" aria-hidden="true" {
            path d="M3 2h7l3 3v9H3z" {}
            path.fold d="M10 2v3h3" {}
            path.line d="M5.5 8h5M5.5 11h5" {}
        }
    }
}

/// A moment, which a script shows in the viewer's zone.
pub(crate) fn show_time(since_1970_ms: u64) -> Markup {
    let moment = i64::try_from(since_1970_ms / 1000)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let Some(moment) = moment else {
        return html! { (since_1970_ms) " ms" };
    };
    let exact = moment.to_string();
    let short = exact.get(..16).unwrap_or(&exact).replace('T', " ");
    html! { time datetime=(exact) title=(exact) { (short) " UTC" } }
}

/// `text` as a value in the query of an address.
pub(crate) fn query_value(text: &str) -> String {
    use std::fmt::Write as _;
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            value.push(byte as char);
        } else {
            let _ = write!(value, "%{byte:02X}");
        }
    }
    value
}

/// The address of a node's page.
pub(crate) fn node_address(name: &str) -> String {
    format!("/node?name={}", query_value(name))
}

/// Messages as the command line writes them: each line with the class of its label.
pub(crate) fn show_messages(messages: &str) -> Markup {
    html! {
        @for line in message_lines(messages) {
            @let (class, text) = match line.split_once(": ") {
                Some(("error", text)) => ("error", text),
                Some(("hint", text)) => ("hint", text),
                Some(("warning", text)) => ("warning", text),
                _ => ("note", line),
            };
            p class=(class) {
                @if class == "hint" { strong { "What now: " } }
                (text)
            }
        }
    }
}

/// A pane that says why something was refused.
pub(crate) fn refusal_pane(message: &str, hint: Option<&str>) -> Markup {
    html! {
        h1 { "This was not done" }
        div.messages role="alert" {
            p.error { (message) }
            @if let Some(hint) = hint { p.hint { strong { "What now: " } (hint) } }
        }
        p { a href="/" data-pane { "Back to the store" } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup_or_another_part_of_an_address() {
        let hostile = "<img src=x onerror=alert(1)>&\"'#?%/@\u{1f600}";
        let shown = refusal_pane(hostile, Some(hostile)).into_string();
        assert!(!shown.contains("<img") && shown.contains("&lt;img"));
        let address = node_address(hostile);
        let value = address.strip_prefix("/node?name=").expect("its beginning");
        assert!(
            value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"%-_.~".contains(&byte))
        );
        let shown = show_messages(&format!("error: {hostile}\nhint: {hostile}\n")).into_string();
        assert!(!shown.contains("<img"));
    }

    #[test]
    fn any_number_is_a_time() {
        assert!(show_time(0).into_string().contains("1970-01-01 00:00 UTC"));
        assert!(show_time(u64::MAX).into_string().contains("ms"));
    }
}
