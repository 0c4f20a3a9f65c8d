//! The page for who has no session yet.

use maud::{Markup, html};

use super::render_document;

/// Asks for the token. With scripts it is taken from the address, and taken out of it.
pub(crate) fn sign_in_page(is_refused: bool) -> Markup {
    let body = html! {
        body.sign-in {
            main {
                h1 { "Vellum" }
                form #token-form method="post" action="/session" {
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
                    button.primary type="submit" { "Open" }
                }
            }
        }
    };
    render_document("Open", body)
}
