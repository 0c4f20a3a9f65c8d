//! Errors on standard error: one sentence, the next step, and the causes if they are asked for.

use std::error::Error;

use serde::Serialize;

use super::Layout;
use super::escape::visible;
use crate::caller::Caller;
use crate::failure::{Failure, USAGE_CODE};

#[derive(Serialize)]
struct ErrorMessage<'a> {
    message_type: &'static str,
    code: u8,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

#[derive(Serialize)]
struct TextMessage<'a> {
    message_type: &'static str,
    message: &'a str,
}

/// Shows why a command failed.
pub(crate) fn failure(caller: &Caller, failure: &Failure, code: u8, json: bool, verbose: bool) {
    if matches!(failure, Failure::OutputClosed) {
        return;
    }
    let causes = causes(failure);
    let message = sentence(&failure.to_string(), &causes);
    let hint = failure.hint();
    if json {
        return show_json(
            caller,
            &ErrorMessage {
                message_type: "error",
                code,
                message: &message,
                hint: hint.as_deref(),
            },
        );
    }
    show(caller, "error:", RED, &message);
    if let Some(hint) = hint {
        show(caller, "hint:", CYAN, &hint);
    }
    if verbose {
        causes
            .iter()
            .for_each(|cause| show(caller, "caused by:", CYAN, cause));
    }
}

/// Shows what is wrong with the command line, in clap's words.
pub(crate) fn usage(caller: &Caller, text: &str, json: bool) {
    if json {
        let message = text.split("\n\n").next().unwrap_or_default().trim();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        return show_json(
            caller,
            &ErrorMessage {
                message_type: "error",
                code: USAGE_CODE,
                message,
                hint: None,
            },
        );
    }
    for line in text.lines() {
        caller.say(&visible(line));
    }
}

/// Writes a warning about a fault that does not end the command.
pub(crate) fn warning(caller: &Caller, text: &str, json: bool) {
    if json {
        let message = TextMessage {
            message_type: "warning",
            message: text,
        };
        show_json(caller, &message);
    } else {
        notice(caller, &format!("warning: {text}"));
    }
}

/// Writes a notice beside the answer.
pub(crate) fn notice(caller: &Caller, text: &str) {
    caller.say(&visible(text));
}

/// Writes one line about an event.
pub(crate) fn event(caller: &Caller, layout: Layout, text: &str) {
    if layout == Layout::Human {
        return notice(caller, text);
    }
    let message = TextMessage {
        message_type: "event",
        message: text,
    };
    show_json(caller, &message);
}

fn causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source())
        .map(ToString::to_string)
        .collect()
}

/// The message and those of its causes that it does not tell already.
fn sentence(message: &str, causes: &[String]) -> String {
    let mut sentence = message.to_owned();
    for cause in causes {
        if !sentence.contains(cause.as_str()) {
            sentence.push_str(": ");
            sentence.push_str(cause);
        }
    }
    sentence
}

const RED: &str = "\u{1b}[1;31m";
const CYAN: &str = "\u{1b}[1;36m";
const PLAIN: &str = "\u{1b}[0m";

fn show(caller: &Caller, label: &str, colour: &str, text: &str) {
    let text = visible(text);
    if caller.takes_colour() {
        caller.say(&format!("{colour}{label}{PLAIN} {text}"));
    } else {
        caller.say(&format!("{label} {text}"));
    }
}

fn show_json(caller: &Caller, message: &impl Serialize) {
    caller.say(&serde_json::to_string(message).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let causes = ["b: c".to_owned(), "c".to_owned(), "d".to_owned()];
        assert_eq!(sentence("a", &causes), "a: b: c: d");
        assert_eq!(sentence("a b: c", &causes), "a b: c: d");
    }
}
