//! The page for who has no session yet.

use maud::{Markup, html};

use super::render_document;

/// Asks for the password, or for the token. With scripts the token is taken from the address, and
/// taken out of it.
pub(crate) fn sign_in_page(has_password: bool, is_refused: bool) -> Markup {
    let body = html! {
        body.sign-in {
            main {
                h1 { "Vellum" }
                form #sign-in-form method="post" action="/session" {
                    @if has_password { (password_fields(is_refused)) }
                    @else { (token_fields(is_refused)) }
                    button.primary type="submit" { "Open" }
                }
            }
        }
    };
    render_document("Open", body)
}

fn password_fields(is_refused: bool) -> Markup {
    html! {
        @if is_refused {
            p.error role="alert" {
                "That is not the password, or there were too many attempts. After ten, it takes a "
                "quarter of an hour until the next."
            }
        }
        // Where programs that remember passwords look for whose it is.
        input type="hidden" name="user" value="vellum" autocomplete="username";
        label for="password" { "Password" }
        input #password type="password" name="password" required autofocus
            autocomplete="current-password";
    }
}

fn token_fields(is_refused: bool) -> Markup {
    html! {
        @if is_refused {
            p.error role="alert" {
                "That is no token, or one that was used already. Each opens the page "
                "once; the terminal shows the next."
            }
        }
        p {
            "Open the URL that " code { "vellum manager" } " printed, or paste what "
            "stands in it behind " code { "#token=" } "."
        }
        label for="token" { "Token" }
        input #token type="password" name="token" required autocomplete="off"
            spellcheck="false";
    }
}
