//! Leading one client through the handshake: a loop that does what `negotiation` decides.

use std::io;
use std::sync::Arc;

use vellum_core::device::{Device, Exports, Intent, OpenError};

use super::buffers::ReceiveBuffer;
use super::negotiation::{
    Action, EntryReply, ExportRequest, Negotiation, NegotiationStep, OpenedExport, Policy, Question,
};
use super::transmission::Transmission;
use super::wire;
use crate::writers::WriteRight;

/// A client, as far as a handshake sees it.
pub(super) trait Channel {
    /// Some bytes of the client, none when it has no more.
    fn receive_bytes(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Sends all of `bytes`.
    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Starts TLS; all that follows goes through it.
    fn start_tls(&mut self) -> io::Result<()>;
    /// True if the server is about to end.
    fn is_stopping(&self) -> bool;
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
pub(super) struct EnteredExport {
    pub(super) name: String,
    pub(super) right: Option<WriteRight>,
    pub(super) device: Arc<dyn Device>,
    pub(super) transmission: Transmission,
}

/// The handshake with one client: the export that it entered, `None` if it left or was sent away.
/// What it sent after the handshake is in `input`.
pub(super) fn run_handshake(
    channel: &mut dyn Channel,
    exports: &dyn Exports,
    policy: Policy,
    input: &mut ReceiveBuffer,
) -> io::Result<Option<EnteredExport>> {
    channel.send_bytes(&wire::server_greeting())?;
    let mut handshake = Handshake {
        exports,
        intent: policy_intent(policy),
        negotiation: Negotiation::new(policy),
    };
    loop {
        let step = handshake
            .negotiation
            .next(input.unread_bytes(), channel.is_stopping())
            .map_err(io::Error::other)?;
        let NegotiationStep::Taken(len, action) = step else {
            let received = channel.receive_bytes(input.free_space())?;
            if received == 0 {
                return Ok(None);
            }
            input.add_arrived(received);
            continue;
        };
        input.consume_bytes(len);
        match action {
            Action::Say(bytes) if bytes.is_empty() => {}
            Action::Say(bytes) => channel.send_bytes(&bytes)?,
            Action::End(bytes) => return channel.send_bytes(&bytes).map(|()| None),
            // Bytes that were sent in plain text behind STARTTLS would be taken for the client's
            // under TLS.
            Action::StartTls(_) if !input.unread_bytes().is_empty() => return Ok(None),
            Action::StartTls(bytes) => {
                channel.send_bytes(&bytes)?;
                channel.start_tls()?;
                handshake.negotiation.restart_secured();
            }
            Action::Open(wish) => match handshake.open_export(channel, &wish) {
                (EntryReply::Closed, _) => return Ok(None),
                (EntryReply::Refused(bytes), _) => channel.send_bytes(&bytes)?,
                (EntryReply::Started(bytes, transmission), opened) => {
                    channel.send_bytes(&bytes)?;
                    return Ok(opened.map(|(device, right)| EnteredExport {
                        name: wish.name,
                        right,
                        device,
                        transmission,
                    }));
                }
            },
            Action::Ask(question) => channel.send_bytes(&handshake.answer_question(&question))?,
        }
    }
}

fn policy_intent(policy: Policy) -> Intent {
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
    fn answer_question(&mut self, question: &Question) -> Vec<u8> {
        match question {
            Question::List => Negotiation::reply_listed(self.exports.list_exports()),
            Question::Describe(wish) => self
                .negotiation
                .reply_described(wish, self.exports.export_info(&wish.name)),
            Question::Contexts(queries) => {
                let found = if queries.need_comparable {
                    self.comparable_snapshots(&queries.name)
                } else {
                    self.no_contexts(&queries.name)
                };
                self.negotiation.contexts_found(queries, found)
            }
        }
    }

    /// A client that only asks for names does not enter the export as a guest.
    fn comparable_snapshots(&self, name: &str) -> Result<Vec<String>, OpenError> {
        Ok(self.exports.open_export(name, Intent::Look)?.comparable())
    }

    fn no_contexts(&self, name: &str) -> Result<Vec<String>, OpenError> {
        self.exports.export_info(name).map(|_| Vec::new())
    }

    fn open_export(
        &mut self,
        channel: &mut dyn Channel,
        wish: &ExportRequest,
    ) -> (EntryReply, Option<(Arc<dyn Device>, Option<WriteRight>)>) {
        let opened = self.exports.export_info(&wish.name).and_then(|info| {
            channel.take_seat().map_err(OpenError::Refused)?;
            let device = self.exports.open_export(&wish.name, self.intent);
            let device = device.inspect_err(|_| channel.give_seat_back())?;
            Ok((info, device))
        });
        match opened {
            Err(error) => {
                channel.turned_away(&error.to_string());
                (self.negotiation.enter_opened(wish, Err(error)), None)
            }
            Ok((mut info, device)) => {
                // The device knows better than a list what it is by now.
                info.len = device.len();
                info.read_only = device.is_read_only();
                let mut right = None;
                if !info.read_only && self.intent != Intent::Read {
                    right = channel.write_right(&device);
                }
                if let Some(holder) = right.as_ref().and_then(WriteRight::blocking_writer) {
                    channel.turned_away(&format!(
                        "{} can only be read: {holder} writes to it",
                        wish.name
                    ));
                    info.read_only = true;
                    right = None;
                }
                let opened = OpenedExport {
                    info,
                    preferred_len: device.preferred_len(),
                };
                let entry = self.negotiation.enter_opened(wish, Ok(opened));
                (entry, Some((device, right)))
            }
        }
    }
}
