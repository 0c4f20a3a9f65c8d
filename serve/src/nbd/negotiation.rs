//! The handshake as a state machine: bytes in, [`Action`]s out. It has no socket, no clock and no
//! exports: it asks for the facts that it lacks with a [`Question`], and gets the answer from its
//! caller.
//!
//! Nothing that a client said before TLS has any effect after it (CVE-2021-3716), no export is
//! opened for a client that still has to start TLS (CVE-2019-14850), and a message is never kept
//! longer than [`OPTION_LEN_MAX`].

use vellum_core::device::{DeviceError, ExportInfo, OpenError};

use super::transmission::{MetadataContext, Transmission};
use super::wire::{
    self, BadMagic, FieldReader, Headers, OptionHeader, info, option, reply, transmission_flag,
};

/// Longer options are answered with an error, their bytes skipped. The longest useful one selects
/// contexts: a name and some queries.
pub(super) const OPTION_LEN_MAX: usize = 32 << 10;
/// The longest read or write that clients are told of, if they ask: what all of them assume if
/// nothing is said. What is served beyond that is in `transmission`.
pub(super) const REQUEST_LEN_TOLD: u32 = 32 << 20;
/// Preferred block size that INFO reports: it opens no device that could be asked.
const PREFERRED_LEN_UNOPENED: u32 = 4096;
const ALLOCATION_CONTEXT: &str = "base:allocation";
const SINCE_PREFIX: &str = "qemu:dirty-bitmap:since:";
/// More names in one handshake are not remembered: each costs memory while the client is connected.
const CONTEXT_COUNT_MAX: usize = 256;

/// Permissions of the server, the same for all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Nothing but ABORT and STARTTLS without TLS; else there is no TLS.
    pub(super) tls_required: bool,
    /// No client may write.
    pub(super) read_only: bool,
    /// True if one client may use several connections.
    pub(super) multi_conn: bool,
}

/// Conclusion from the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NegotiationStep {
    /// Nothing: so many bytes in all are needed.
    Need(usize),
    /// So many bytes were taken, and this is to be done.
    Taken(usize, Action),
}

/// The server's next action.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this, which may be nothing.
    Say(Vec<u8>),
    /// Find out, and tell [`Negotiation`] the answer.
    Ask(Question),
    /// Open this export, and tell [`Negotiation::enter_opened`].
    Open(ExportRequest),
    /// Send this, start TLS, and call [`Negotiation::restart_secured`]. Bytes that arrived already
    /// are not the client's: close instead.
    StartTls(Vec<u8>),
    /// Send this and close.
    End(Vec<u8>),
}

/// Question that only the exports can answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// All exports: [`Negotiation::reply_listed`].
    List,
    /// One export, without opening it: [`Negotiation::reply_described`].
    Describe(ExportRequest),
    /// Snapshots that the export's device can be compared with, if they matter:
    /// [`Negotiation::contexts_found`].
    Contexts(ContextQueries),
}

/// An export that a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExportRequest {
    pub(super) name: String,
    option: u32,
    kinds: Vec<u16>,
}

/// Contexts that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextQueries {
    pub(super) name: String,
    /// True if the snapshots of the device matter.
    pub(super) need_comparable: bool,
    option: u32,
    patterns: Vec<String>,
}

/// Properties of an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenedExport {
    pub(super) info: ExportInfo,
    pub(super) preferred_len: u32,
}

/// Outcome of a client's wish to enter an export.
#[derive(Debug)]
pub(super) enum EntryReply {
    /// Send this; requests follow.
    Started(Vec<u8>, Transmission),
    /// Send this; options go on.
    Refused(Vec<u8>),
    /// Close: this client cannot be told.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakePhase {
    ClientFlags,
    Options,
    /// So many bytes of a refused option are still to come, then the reply.
    Skipping(u64, u32),
    Ended,
}

/// The handshake with one client.
#[derive(Debug)]
pub(super) struct Negotiation {
    policy: Policy,
    phase: HandshakePhase,
    secure: bool,
    fixed: bool,
    no_zeroes: bool,
    headers: Headers,
    /// For which export contexts were selected, and which.
    selected: Option<(String, Vec<MetadataContext>)>,
}

impl Negotiation {
    /// A new client; [`wire::server_greeting`] has been sent.
    pub(super) fn new(policy: Policy) -> Self {
        let phase = HandshakePhase::ClientFlags;
        Self {
            policy,
            phase,
            secure: false,
            fixed: false,
            no_zeroes: false,
            headers: Headers::Simple,
            selected: None,
        }
    }

    /// Decides about the first message in `input`. `stopping`: the server is about to end, and says
    /// so.
    pub(super) fn next(
        &mut self,
        input: &[u8],
        stopping: bool,
    ) -> Result<NegotiationStep, BadMagic> {
        match self.phase {
            HandshakePhase::ClientFlags => Ok(self.client_flags(input)),
            HandshakePhase::Options => self.take_option(input, stopping),
            HandshakePhase::Skipping(left, option) => {
                Ok(self.skip_option_data(input.len(), left, option))
            }
            HandshakePhase::Ended => {
                Ok(NegotiationStep::Taken(input.len(), Action::End(Vec::new())))
            }
        }
    }

    /// TLS is there: everything said before is forgotten, except how the handshake is done.
    pub(super) fn restart_secured(&mut self) {
        let (fixed, no_zeroes) = (self.fixed, self.no_zeroes);
        *self = Self {
            secure: true,
            phase: HandshakePhase::Options,
            fixed,
            no_zeroes,
            ..Self::new(self.policy)
        };
    }

    fn client_flags(&mut self, input: &[u8]) -> NegotiationStep {
        let Some(flags) = FieldReader(input).take_u32() else {
            return NegotiationStep::Need(wire::CLIENT_FLAGS_LEN);
        };
        self.fixed = flags & u32::from(wire::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;
        let known = flags & !u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES) == 0;
        self.phase = if known {
            HandshakePhase::Options
        } else {
            HandshakePhase::Ended
        };
        let action = if known {
            Action::Say(Vec::new())
        } else {
            Action::End(Vec::new())
        };
        NegotiationStep::Taken(wire::CLIENT_FLAGS_LEN, action)
    }

    fn take_option(&mut self, input: &[u8], stopping: bool) -> Result<NegotiationStep, BadMagic> {
        let Some(header) = wire::option_header(input)? else {
            return Ok(NegotiationStep::Need(wire::OPTION_HEADER_LEN));
        };
        let data_len = header.data_len as usize;
        // Clients that cannot be told of an error are let go at once.
        let mute = header.option == option::EXPORT_NAME
            && (data_len > wire::STRING_LEN_MAX || stopping || self.must_secure());
        if mute || (!self.fixed && header.option != option::EXPORT_NAME) {
            self.phase = HandshakePhase::Ended;
            return Ok(NegotiationStep::Taken(
                wire::OPTION_HEADER_LEN,
                Action::End(Vec::new()),
            ));
        }
        if data_len > OPTION_LEN_MAX {
            self.phase = HandshakePhase::Skipping(u64::from(header.data_len), header.option);
            return Ok(NegotiationStep::Taken(
                wire::OPTION_HEADER_LEN,
                Action::Say(Vec::new()),
            ));
        }
        let whole_len = wire::OPTION_HEADER_LEN + data_len;
        let Some(data) = input.get(wire::OPTION_HEADER_LEN..whole_len) else {
            return Ok(NegotiationStep::Need(whole_len));
        };
        Ok(NegotiationStep::Taken(
            whole_len,
            self.decide_option(header, data, stopping),
        ))
    }

    fn skip_option_data(&mut self, available: usize, left: u64, option: u32) -> NegotiationStep {
        let taken = left.min(available as u64);
        if taken == 0 && left > 0 {
            return NegotiationStep::Need(1);
        }
        let left = left - taken;
        self.phase = if left == 0 {
            HandshakePhase::Options
        } else {
            HandshakePhase::Skipping(left, option)
        };
        let kind = if self.must_secure() {
            reply::ERR_TLS_REQD
        } else {
            reply::ERR_TOO_BIG
        };
        let said = if left == 0 {
            text_reply(option, kind, "the option is too long")
        } else {
            Vec::new()
        };
        NegotiationStep::Taken(taken as usize, Action::Say(said))
    }

    fn must_secure(&self) -> bool {
        self.policy.tls_required && !self.secure
    }

    fn decide_option(&mut self, header: OptionHeader, data: &[u8], stopping: bool) -> Action {
        let option = header.option;
        let refuse = |kind, text: &str| Action::Say(text_reply(option, kind, text));
        if option == option::ABORT {
            self.phase = HandshakePhase::Ended;
            return Action::End(text_reply(option, reply::ACK, ""));
        }
        if stopping {
            return refuse(reply::ERR_SHUTDOWN, "the server is stopping");
        }
        if self.must_secure() && option != option::STARTTLS {
            return refuse(reply::ERR_TLS_REQD, "this server asks for TLS first");
        }
        let action = match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::LIST => data.is_empty().then_some(Action::Ask(Question::List)),
            option::STARTTLS => return self.start_tls(data),
            option::INFO => {
                parse_export_request(option, data).map(|wish| Action::Ask(Question::Describe(wish)))
            }
            option::GO => parse_export_request(option, data).map(Action::Open),
            option::STRUCTURED_REPLY if self.headers == Headers::Extended => {
                return refuse(
                    reply::ERR_EXT_HEADER_REQD,
                    "extended headers are agreed already",
                );
            }
            option::STRUCTURED_REPLY => self.raise_headers(option, data, Headers::Structured),
            option::EXTENDED_HEADERS => self.raise_headers(option, data, Headers::Extended),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                self.context_question(option, data)
            }
            _ => return refuse(reply::ERR_UNSUP, "this option is not known here"),
        };
        action.unwrap_or_else(|| {
            refuse(
                reply::ERR_INVALID,
                "the option is malformed, or not allowed at this point",
            )
        })
    }

    fn export_name(&mut self, data: &[u8]) -> Action {
        let Ok(name) = std::str::from_utf8(data) else {
            self.phase = HandshakePhase::Ended;
            return Action::End(Vec::new());
        };
        Action::Open(ExportRequest {
            name: name.to_owned(),
            option: option::EXPORT_NAME,
            kinds: Vec::new(),
        })
    }

    fn start_tls(&self, data: &[u8]) -> Action {
        let say = |kind, text: &str| text_reply(option::STARTTLS, kind, text);
        if !data.is_empty() {
            return Action::Say(say(reply::ERR_INVALID, "STARTTLS has no data"));
        }
        match (self.policy.tls_required, self.secure) {
            (false, _) => Action::Say(say(reply::ERR_POLICY, "this server has no certificate")),
            (true, true) => Action::Say(say(reply::ERR_INVALID, "TLS is there already")),
            (true, false) => Action::StartTls(say(reply::ACK, "")),
        }
    }

    /// Other forms of replies, never simpler ones than agreed before.
    fn raise_headers(&mut self, option: u32, data: &[u8], headers: Headers) -> Option<Action> {
        if !data.is_empty() || self.headers >= headers {
            return None;
        }
        self.headers = headers;
        Some(Action::Say(text_reply(option, reply::ACK, "")))
    }

    fn context_question(&mut self, option: u32, data: &[u8]) -> Option<Action> {
        if option == option::SET_META_CONTEXT {
            self.selected = None;
        }
        if self.headers == Headers::Simple {
            return None;
        }
        let mut fields = FieldReader(data);
        let name = fields.take_string()?.to_owned();
        let count = fields.take_u32()?;
        // Each query takes at least its length: a count alone reserves nothing.
        let queries: Vec<String> = (0..count)
            .map(|_| fields.take_string().map(str::to_owned))
            .collect::<Option<_>>()?;
        fields.expect_end()?;
        if queries.iter().any(|query| !query.contains(':')) {
            return None;
        }
        let list_all = option == option::LIST_META_CONTEXT && queries.is_empty();
        let need_comparable = list_all || queries.iter().any(|query| query.starts_with("qemu:"));
        Some(Action::Ask(Question::Contexts(ContextQueries {
            name,
            need_comparable,
            option,
            patterns: queries,
        })))
    }

    /// The answer to [`Question::List`].
    pub(super) fn reply_listed(exports: Result<Vec<ExportInfo>, DeviceError>) -> Vec<u8> {
        let exports = match exports {
            Ok(exports) => exports,
            Err(error) => {
                return text_reply(option::LIST, device_refusal(&error), &error.to_string());
            }
        };
        let mut said = Vec::new();
        for export in &exports {
            let name_len = (export.name.len() as u32).to_be_bytes();
            let data = [
                &name_len[..],
                export.name.as_bytes(),
                clip_text(&export.description).as_bytes(),
            ];
            wire::put_option_reply(&mut said, option::LIST, reply::SERVER, &data);
        }
        wire::put_option_reply(&mut said, option::LIST, reply::ACK, &[]);
        said
    }

    /// The answer to [`Question::Describe`].
    pub(super) fn reply_described(
        &self,
        wish: &ExportRequest,
        found: Result<ExportInfo, OpenError>,
    ) -> Vec<u8> {
        match found {
            Ok(info) => self.export_info_replies(
                wish,
                &OpenedExport {
                    info,
                    preferred_len: PREFERRED_LEN_UNOPENED,
                },
            ),
            Err(error) => refusal_reply(wish.option, &error),
        }
    }

    /// The answer to [`Action::Open`].
    pub(super) fn enter_opened(
        &mut self,
        wish: &ExportRequest,
        found: Result<OpenedExport, OpenError>,
    ) -> EntryReply {
        let opened = match found {
            Ok(opened) => opened,
            Err(_) if wish.option == option::EXPORT_NAME => return EntryReply::Closed,
            Err(error) => return EntryReply::Refused(refusal_reply(wish.option, &error)),
        };
        self.phase = HandshakePhase::Ended;
        let selected = self.selected.take().filter(|(name, _)| *name == wish.name);
        let transmission = Transmission {
            headers: self.headers,
            len: opened.info.len,
            read_only: opened.info.read_only || self.policy.read_only,
            contexts: selected.map(|(_, contexts)| contexts).unwrap_or_default(),
        };
        if wish.option == option::GO {
            return EntryReply::Started(self.export_info_replies(wish, &opened), transmission);
        }
        let mut said = opened.info.len.to_be_bytes().to_vec();
        said.extend(self.transmission_flags(&opened.info).to_be_bytes());
        said.resize(
            said.len() + if self.no_zeroes { 0 } else { wire::PADDING_LEN },
            0,
        );
        EntryReply::Started(said, transmission)
    }

    /// The answer to [`Question::Contexts`]: the snapshots, none if they do not matter, or why
    /// there is no such export.
    pub(super) fn contexts_found(
        &mut self,
        asked: &ContextQueries,
        comparable: Result<Vec<String>, OpenError>,
    ) -> Vec<u8> {
        let comparable = match comparable {
            Ok(comparable) => comparable,
            Err(error) => return refusal_reply(asked.option, &error),
        };
        let listing = asked.option == option::LIST_META_CONTEXT;
        let all = [MetadataContext::Allocation]
            .into_iter()
            .chain(comparable.into_iter().map(MetadataContext::Since));
        let mut chosen: Vec<MetadataContext> = all
            .filter(|context| asked.matches_name(&context_name(context), listing))
            .collect();
        let mut said = Vec::new();
        if !listing && chosen.len() > CONTEXT_COUNT_MAX {
            chosen.clear();
            return text_reply(
                asked.option,
                reply::ERR_TOO_BIG,
                "these are too many contexts",
            );
        }
        for (id, context) in chosen.iter().enumerate() {
            // A list has no ids.
            let id = if listing { 0_u32 } else { id as u32 };
            let data = [&id.to_be_bytes()[..], context_name(context).as_bytes()].concat();
            wire::put_option_reply(&mut said, asked.option, reply::META_CONTEXT, &[&data]);
        }
        wire::put_option_reply(&mut said, asked.option, reply::ACK, &[]);
        if !listing {
            self.selected = Some((asked.name.clone(), chosen));
        }
        said
    }

    fn transmission_flags(&self, info: &ExportInfo) -> u16 {
        use transmission_flag as flag;
        let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
        if info.read_only || self.policy.read_only {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
        }
        if self.headers > Headers::Simple {
            flags |= flag::SEND_DF;
        }
        if self.policy.multi_conn {
            flags |= flag::CAN_MULTI_CONN;
        }
        flags
    }

    fn export_info_replies(&self, wish: &ExportRequest, opened: &OpenedExport) -> Vec<u8> {
        let mut said = Vec::new();
        let mut put = |kind: u16, data: &[&[u8]]| {
            let data = [&kind.to_be_bytes()[..], &data.concat()].concat();
            wire::put_option_reply(&mut said, wish.option, reply::INFO, &[&data]);
        };
        put(
            info::EXPORT,
            &[
                &opened.info.len.to_be_bytes(),
                &self.transmission_flags(&opened.info).to_be_bytes(),
            ],
        );
        if wish.kinds.contains(&info::NAME) {
            put(info::NAME, &[opened.info.name.as_bytes()]);
        }
        if wish.kinds.contains(&info::DESCRIPTION) {
            put(
                info::DESCRIPTION,
                &[clip_text(&opened.info.description).as_bytes()],
            );
        }
        if wish.kinds.contains(&info::BLOCK_SIZE) {
            // The protocol wants a power of two from 512 to the largest request.
            let preferred = opened
                .preferred_len
                .clamp(512, REQUEST_LEN_TOLD)
                .next_power_of_two();
            put(
                info::BLOCK_SIZE,
                &[
                    &1_u32.to_be_bytes(),
                    &preferred.to_be_bytes(),
                    &REQUEST_LEN_TOLD.to_be_bytes(),
                ],
            );
        }
        wire::put_option_reply(&mut said, wish.option, reply::ACK, &[]);
        said
    }
}

impl ContextQueries {
    /// Exact names; in a list also everything of a namespace, or everything.
    fn matches_name(&self, name: &str, listing: bool) -> bool {
        let family = |query: &str| listing && query.ends_with(':') && name.starts_with(query);
        (listing && self.patterns.is_empty())
            || self
                .patterns
                .iter()
                .any(|query| query == name || family(query))
    }
}

/// The data of INFO and GO: a name and the kinds of information wanted.
fn parse_export_request(option: u32, data: &[u8]) -> Option<ExportRequest> {
    let mut fields = FieldReader(data);
    let name = fields.take_string()?.to_owned();
    let count = fields.take_u16()?;
    let kinds = (0..count)
        .map(|_| fields.take_u16())
        .collect::<Option<_>>()?;
    fields.expect_end()?;
    Some(ExportRequest {
        name,
        option,
        kinds,
    })
}

fn context_name(context: &MetadataContext) -> String {
    match context {
        MetadataContext::Allocation => ALLOCATION_CONTEXT.to_owned(),
        MetadataContext::Since(snapshot) => format!("{SINCE_PREFIX}{snapshot}"),
    }
}

/// One reply whose data is a text for people.
fn text_reply(option: u32, kind: u32, text: &str) -> Vec<u8> {
    let mut said = Vec::new();
    wire::put_option_reply(&mut said, option, kind, &[clip_text(text).as_bytes()]);
    said
}

fn refusal_reply(option: u32, error: &OpenError) -> Vec<u8> {
    let kind = match error {
        OpenError::Unknown(_) => reply::ERR_UNKNOWN,
        OpenError::Refused(_) => reply::ERR_POLICY,
        OpenError::Device(error) => device_refusal(error),
    };
    text_reply(option, kind, &error.to_string())
}

fn device_refusal(error: &DeviceError) -> u32 {
    if *error == DeviceError::Stopping {
        reply::ERR_SHUTDOWN
    } else {
        reply::ERR_PLATFORM
    }
}

/// No longer than a string may be, cut between characters.
pub(super) fn clip_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(wire::STRING_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use super::{Action, HandshakePhase, Negotiation, NegotiationStep, Policy};
    use crate::nbd::wire::{BadMagic, Headers, option, reply};

    const PLAIN: Policy = Policy {
        tls_required: false,
        read_only: false,
        multi_conn: true,
    };
    const SECURE: Policy = Policy {
        tls_required: true,
        ..PLAIN
    };
    const FLAGS: [u8; 4] = [0, 0, 0, 3];

    fn message(number: u32, data: &[u8]) -> Vec<u8> {
        [
            b"IHAVEOPT",
            &number.to_be_bytes()[..],
            &(data.len() as u32).to_be_bytes(),
            data,
        ]
        .concat()
    }

    /// One that has had the client's flags.
    fn negotiation(policy: Policy) -> Negotiation {
        let mut negotiation = Negotiation::new(policy);
        assert_eq!(
            negotiation.next(&FLAGS, false),
            Ok(NegotiationStep::Taken(4, Action::Say(Vec::new())))
        );
        negotiation
    }

    /// The action for an option that has arrived as a whole.
    fn decided(negotiation: &mut Negotiation, number: u32, data: &[u8], stopping: bool) -> Action {
        let bytes = message(number, data);
        match negotiation.next(&bytes, stopping).expect("an option") {
            NegotiationStep::Taken(len, action) if len == bytes.len() => action,
            NegotiationStep::Taken(_, Action::End(bytes)) => Action::End(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn kind(said: &[u8]) -> u32 {
        u32::from_be_bytes(said[12..16].try_into().expect("a reply"))
    }

    #[test]
    fn a_stopping_server_says_so_to_every_option() {
        for number in [
            option::LIST,
            option::INFO,
            option::GO,
            option::STARTTLS,
            option::STRUCTURED_REPLY,
            99,
        ] {
            let Action::Say(said) = decided(&mut negotiation(PLAIN), number, b"", true) else {
                panic!("option {number}")
            };
            assert_eq!(kind(&said), reply::ERR_SHUTDOWN, "option {number}");
        }
        let Action::End(said) = decided(&mut negotiation(PLAIN), option::ABORT, b"", true) else {
            panic!("abort")
        };
        assert_eq!(kind(&said), reply::ACK);
        assert_eq!(
            decided(&mut negotiation(PLAIN), option::EXPORT_NAME, b"disk", true),
            Action::End(Vec::new()),
            "it cannot be told"
        );
    }

    #[test]
    fn tls_forgets_what_was_agreed_before_and_keeps_how_the_handshake_is_done() {
        let mut negotiation = negotiation(SECURE);
        // As if a fault had let it through in plain text.
        negotiation.headers = Headers::Extended;
        negotiation.selected = Some(("disk".to_owned(), Vec::new()));
        assert!(matches!(
            decided(&mut negotiation, option::STARTTLS, b"", false),
            Action::StartTls(_)
        ));
        negotiation.restart_secured();
        assert_eq!(
            (negotiation.headers, negotiation.selected.is_none()),
            (Headers::Simple, true)
        );
        assert_eq!(
            (negotiation.phase, negotiation.fixed, negotiation.no_zeroes),
            (HandshakePhase::Options, true, true)
        );
        assert!(
            matches!(
                decided(&mut negotiation, option::LIST, b"", false),
                Action::Ask(_)
            ),
            "no second set of flags"
        );
    }

    #[test]
    fn an_option_in_pieces_is_decided_once_it_is_whole() {
        let bytes = message(option::LIST, b"");
        for len in 0..bytes.len() {
            assert_eq!(
                negotiation(PLAIN).next(&bytes[..len], false),
                Ok(NegotiationStep::Need(16)),
                "{len}"
            );
        }
        let long = message(option::GO, &[0; 100]);
        assert_eq!(
            negotiation(PLAIN).next(&long[..115], false),
            Ok(NegotiationStep::Need(116))
        );
        assert_eq!(negotiation(PLAIN).next(&[0; 16], false), Err(BadMagic));
    }

    #[test]
    fn a_long_option_is_skipped_piece_by_piece_and_refused_once() {
        let mut negotiation = negotiation(PLAIN);
        let header = [
            b"IHAVEOPT",
            &option::GO.to_be_bytes()[..],
            &100_000_u32.to_be_bytes(),
        ]
        .concat();
        assert_eq!(
            negotiation.next(&header, false),
            Ok(NegotiationStep::Taken(16, Action::Say(Vec::new())))
        );
        assert_eq!(negotiation.next(b"", false), Ok(NegotiationStep::Need(1)));
        assert_eq!(
            negotiation.next(&vec![0; 60_000], false),
            Ok(NegotiationStep::Taken(60_000, Action::Say(Vec::new())))
        );
        let Ok(NegotiationStep::Taken(40_000, Action::Say(said))) =
            negotiation.next(&vec![0; 60_000], false)
        else {
            panic!("the rest")
        };
        assert_eq!(kind(&said), reply::ERR_TOO_BIG);
        assert!(matches!(
            decided(&mut negotiation, option::LIST, b"", false),
            Action::Ask(_)
        ));
    }
}
