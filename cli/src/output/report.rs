//! Errors on standard error: one sentence, the next step, and the causes if they are asked for.

use std::error::Error;

use serde::Serialize;

use super::OutputLayout;
use super::escape::escape_invisible;
use crate::failure::{CommandFailure, USAGE_CODE};
use crate::invocation::Invocation;

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
pub(crate) fn print_failure(
    caller: &Invocation,
    failure: &CommandFailure,
    code: u8,
    json: bool,
    verbose: bool,
) {
    if matches!(failure, CommandFailure::OutputClosed) {
        return;
    }
    let causes = error_causes(failure);
    let message = error_sentence(&failure.to_string(), &causes);
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
    print_labelled(caller, "error:", RED, &message);
    if let Some(hint) = hint {
        print_labelled(caller, "hint:", CYAN, &hint);
    }
    if verbose {
        causes
            .iter()
            .for_each(|cause| print_labelled(caller, "caused by:", CYAN, cause));
    }
}

/// Shows what is wrong with the command line: in clap's words, or, with advice, in a sentence of
/// them and that.
pub(crate) fn print_usage_error(caller: &Invocation, text: &str, advice: Option<&str>, json: bool) {
    let message = text.split("\n\n").next().unwrap_or_default().trim();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    if json {
        return show_json(
            caller,
            &ErrorMessage {
                message_type: "error",
                code: USAGE_CODE,
                message,
                hint: advice,
            },
        );
    }
    if let Some(advice) = advice {
        print_labelled(caller, "error:", RED, &sentence_of(message));
        return print_labelled(caller, "hint:", CYAN, advice);
    }
    for line in text.lines() {
        caller.print_error_line(&escape_invisible(line));
    }
}

/// A message in one line.
fn sentence_of(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Writes a warning about a fault that does not end the command.
pub(crate) fn print_warning(caller: &Invocation, text: &str, json: bool) {
    if json {
        let message = TextMessage {
            message_type: "warning",
            message: text,
        };
        show_json(caller, &message);
    } else {
        print_notice(caller, &format!("warning: {text}"));
    }
}

/// Writes a notice beside the answer.
pub(crate) fn print_notice(caller: &Invocation, text: &str) {
    caller.print_error_line(&escape_invisible(text));
}

/// Writes one line about an event.
pub(crate) fn print_event(caller: &Invocation, layout: OutputLayout, text: &str) {
    if layout == OutputLayout::Human {
        return print_notice(caller, text);
    }
    let message = TextMessage {
        message_type: "event",
        message: text,
    };
    show_json(caller, &message);
}

fn error_causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |cause: &&dyn Error| (*cause).source())
        .map(ToString::to_string)
        .collect()
}

/// The message and those of its causes that it does not tell already.
fn error_sentence(message: &str, causes: &[String]) -> String {
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

fn print_labelled(caller: &Invocation, label: &str, colour: &str, text: &str) {
    let text = escape_invisible(text);
    if caller.takes_colour() {
        caller.print_error_line(&format!("{colour}{label}{PLAIN} {text}"));
    } else {
        caller.print_error_line(&format!("{label} {text}"));
    }
}

fn show_json(caller: &Invocation, message: &impl Serialize) {
    caller.print_error_line(&serde_json::to_string(message).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cause_is_told_twice() {
        let causes = ["b: c".to_owned(), "c".to_owned(), "d".to_owned()];
        assert_eq!(error_sentence("a", &causes), "a: b: c: d");
        assert_eq!(error_sentence("a b: c", &causes), "a b: c: d");
    }
}
