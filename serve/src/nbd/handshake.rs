//! Leading one client through the handshake: a loop that does what `negotiation` decides.

use std::io;
use std::sync::Arc;

use vellum_core::device::{Device, Exports, Intent, OpenError};

use super::buffers::Input;
use super::negotiation::{Action, Entry, Negotiation, Opened, Policy, Question, Step, Wish};
use super::transmission::Transmission;
use super::wire;
use super::writers::WriteRight;

/// A client, as far as a handshake sees it.
pub(super) trait Channel {
    /// Some bytes of the client, none when it has no more.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Starts TLS; all that follows goes through it.
    fn start_tls(&mut self) -> io::Result<()>;
    /// True if the server is about to end.
    fn stopping(&self) -> bool;
    /// Waits for a seat in an export. An error, for people: there is none.
    fn take_seat(&mut self) -> Result<(), String>;
    /// The client does not get what it wanted the seat for.
    fn give_seat_back(&mut self);
    /// The client's part in writing to a disk. `None`: everybody may write to it.
    fn write_right(&mut self, device: &Arc<dyn Device>) -> Option<WriteRight>;
    /// The client is refused an export, or let go.
    fn turned_away(&mut self, why: &str);
}

/// An export that a client has entered. The right to write goes before the device.
pub(super) struct Entered {
    pub(super) name: String,
    pub(super) right: Option<WriteRight>,
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
            // Bytes that were sent in plain text behind STARTTLS would be taken for the client's
            // under TLS.
            Action::StartTls(_) if !input.data().is_empty() => return Ok(None),
            Action::StartTls(bytes) => {
                channel.send(&bytes)?;
                channel.start_tls()?;
                handshake.negotiation.secured();
            }
            Action::Open(wish) => match handshake.open(channel, &wish) {
                (Entry::Closed, _) => return Ok(None),
                (Entry::Refused(bytes), _) => channel.send(&bytes)?,
                (Entry::Started(bytes, transmission), opened) => {
                    channel.send(&bytes)?;
                    return Ok(opened.map(|(device, right)| Entered {
                        name: wish.name,
                        right,
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

    /// A client that only asks for names does not enter the export as a guest.
    fn comparable(&self, name: &str) -> Result<Vec<String>, OpenError> {
        Ok(self.exports.open(name, Intent::Look)?.comparable())
    }

    fn no_contexts(&self, name: &str) -> Result<Vec<String>, OpenError> {
        self.exports.info(name).map(|_| Vec::new())
    }

    fn open(
        &mut self,
        channel: &mut dyn Channel,
        wish: &Wish,
    ) -> (Entry, Option<(Arc<dyn Device>, Option<WriteRight>)>) {
        let opened = self.exports.info(&wish.name).and_then(|info| {
            channel.take_seat().map_err(OpenError::Refused)?;
            let device = self.exports.open(&wish.name, self.intent);
            let device = device.inspect_err(|_| channel.give_seat_back())?;
            Ok((info, device))
        });
        match opened {
            Err(error) => {
                channel.turned_away(&error.to_string());
                (self.negotiation.opened(wish, Err(error)), None)
            }
            Ok((mut info, device)) => {
                // The device knows better than a list what it is by now.
                info.len = device.len();
                info.read_only = device.is_read_only();
                let mut right = None;
                if !info.read_only && self.intent != Intent::Read {
                    right = channel.write_right(&device);
                }
                if let Some(holder) = right.as_ref().and_then(WriteRight::holder) {
                    channel.turned_away(&format!(
                        "{} can only be read: {holder} writes to it",
                        wish.name
                    ));
                    info.read_only = true;
                    right = None;
                }
                let opened = Opened {
                    info,
                    preferred_len: device.preferred_len(),
                };
                let entry = self.negotiation.opened(wish, Ok(opened));
                (entry, Some((device, right)))
            }
        }
    }
}
