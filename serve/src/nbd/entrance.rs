//! A client's way in: from the first byte at a socket to an export that it has entered.

use std::io;
use std::sync::Arc;

use vellum_core::device::Device;

use super::buffers::ReceiveBuffer;
use super::clients::{ClientGuard, ServerState};
use super::connection::{self, AttachedClient};
use super::handshake::{self, Channel, EnteredExport};
use super::transport::Transport;
use crate::writers::WriteRight;

/// Serves one client until it leaves, or is cut off.
pub(super) fn serve_socket(
    shared: &Arc<ServerState>,
    transport: Arc<Transport>,
    membership: ClientGuard,
) {
    let mut input = ReceiveBuffer::default();
    let mut channel = Handshaking {
        shared,
        transport: &transport,
        membership: &membership,
    };
    let entered =
        match handshake::run_handshake(&mut channel, &*shared.exports, shared.policy, &mut input) {
            Ok(Some(entered)) => entered,
            // A client that leaves in the handshake, or is sent away, has had its reply already.
            Ok(None) => return transport.say_goodbye(),
            Err(error) => {
                membership
                    .log
                    .turned_away(format_args!("no handshake: {error}"));
                return transport.say_goodbye();
            }
        };
    let EnteredExport {
        name,
        right,
        device,
        transmission,
    } = entered;
    if transport.take_time().is_err() {
        return;
    }
    membership.mark_entered();
    membership.log.log_entered(&name, transmission.read_only);
    let guest = AttachedClient {
        right,
        device,
        transmission,
        transport,
        membership,
    };
    connection::serve_client(guest, shared, input);
}

struct Handshaking<'a> {
    shared: &'a ServerState,
    transport: &'a Transport,
    membership: &'a ClientGuard,
}

impl Channel for Handshaking<'_> {
    fn receive_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.transport.receive_bytes(into)
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transport.send_bytes(bytes)
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let identity = self.shared.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        self.transport.start_tls(&identity.config)
    }

    fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    fn take_seat(&mut self) -> Result<(), String> {
        self.membership.take_seat()
    }

    fn give_seat_back(&mut self) {
        self.membership.give_seat_back();
    }

    fn write_right(&mut self, device: &Arc<dyn Device>) -> Option<WriteRight> {
        let enter = || {
            self.shared
                .writers
                .enter_disk(device, &self.membership.peer)
        };
        (!device.is_shareable()).then(enter)
    }

    fn turned_away(&mut self, why: &str) {
        self.membership.log.turned_away(why);
    }
}
