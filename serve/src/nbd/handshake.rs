//! Leading one client through the handshake: a loop that does what `negotiation` decides.

use std::io;
use std::sync::Arc;

use vellum_core::device::{Device, Exports, Intent, OpenError};

use super::buffers::Input;
use super::negotiation::{Action, Entry, Negotiation, Opened, Policy, Question, Step, Wish};
use super::transmission::Transmission;
use super::wire;

/// A client, as far as a handshake sees it.
pub(super) trait Channel {
    /// Some bytes of the client, none when it has no more.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Starts TLS; all that follows goes through it.
    fn start_tls(&mut self) -> io::Result<()>;
    /// Whether the server is about to end.
    fn stopping(&self) -> bool;
}

/// An export that a client has entered.
pub(super) struct Entered {
    pub(super) device: Arc<dyn Device>,
    pub(super) transmission: Transmission,
}

/// The handshake with one client: the export that it entered, `None` if it left or was sent away.
/// What it sent after the handshake is in `input`.
pub(super) fn run(
    channel: &mut dyn Channel,
    exports: &dyn Exports,
    policy: Policy,
    input: &mut Input,
) -> io::Result<Option<Entered>> {
    channel.send(&wire::greeting())?;
    let mut handshake = Handshake {
        exports,
        intent: intent(policy),
        negotiation: Negotiation::new(policy),
        kept: None,
    };
    loop {
        let step = handshake
            .negotiation
            .next(input.data(), channel.stopping())
            .map_err(io::Error::other)?;
        let Step::Taken(len, action) = step else {
            let received = channel.receive(input.space())?;
            if received == 0 {
                return Ok(None);
            }
            input.arrived(received);
            continue;
        };
        input.consume(len);
        match action {
            Action::Say(bytes) if bytes.is_empty() => {}
            Action::Say(bytes) => channel.send(&bytes)?,
            Action::End(bytes) => return channel.send(&bytes).map(|()| None),
            // What was sent in plain text behind STARTTLS would be taken for the client's under
            // TLS.
            Action::StartTls(_) if !input.data().is_empty() => return Ok(None),
            Action::StartTls(bytes) => {
                channel.send(&bytes)?;
                channel.start_tls()?;
                handshake.negotiation.secured();
            }
            Action::Open(wish) => match handshake.open(&wish) {
                (Entry::Closed, _) => return Ok(None),
                (Entry::Refused(bytes), _) => channel.send(&bytes)?,
                (Entry::Started(bytes, transmission), device) => {
                    channel.send(&bytes)?;
                    return Ok(device.map(|device| Entered {
                        device,
                        transmission,
                    }));
                }
            },
            Action::Ask(question) => channel.send(&handshake.answer(&question))?,
        }
    }
}

fn intent(policy: Policy) -> Intent {
    if policy.read_only {
        Intent::Read
    } else {
        Intent::ReadWrite
    }
}

struct Handshake<'a> {
    exports: &'a dyn Exports,
    intent: Intent,
    negotiation: Negotiation,
    /// Opened to name its contexts, kept so that entering it needs no second opening.
    kept: Option<Arc<dyn Device>>,
}

impl Handshake<'_> {
    fn answer(&mut self, question: &Question) -> Vec<u8> {
        match question {
            Question::List => Negotiation::listed(self.exports.list()),
            Question::Describe(wish) => self
                .negotiation
                .described(wish, self.exports.info(&wish.name)),
            Question::Contexts(queries) => {
                let found = if queries.need_comparable {
                    self.comparable(&queries.name)
                } else {
                    self.no_contexts(&queries.name)
                };
                self.negotiation.contexts_found(queries, found)
            }
        }
    }

    fn comparable(&mut self, name: &str) -> Result<Vec<String>, OpenError> {
        let device = self.exports.open(name, self.intent)?;
        let comparable = device.comparable();
        self.kept = Some(device);
        Ok(comparable)
    }

    fn no_contexts(&self, name: &str) -> Result<Vec<String>, OpenError> {
        self.exports.info(name).map(|_| Vec::new())
    }

    fn open(&mut self, wish: &Wish) -> (Entry, Option<Arc<dyn Device>>) {
        let opened = self
            .exports
            .info(&wish.name)
            .and_then(|info| Ok((info, self.exports.open(&wish.name, self.intent)?)));
        match opened {
            Err(error) => (self.negotiation.opened(wish, Err(error)), None),
            Ok((mut info, device)) => {
                // The device knows better than a list what it is by now.
                info.len = device.len();
                info.read_only = device.is_read_only();
                let opened = Opened {
                    info,
                    preferred_len: device.preferred_len(),
                };
                (self.negotiation.opened(wish, Ok(opened)), Some(device))
            }
        }
    }
}
