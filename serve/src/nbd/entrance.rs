//! A client's way in: from the first byte at a socket to an export that it has entered.

use std::io;
use std::sync::Arc;

use vellum_core::device::Device;

use super::buffers::Input;
use super::clients::{Membership, Shared};
use super::connection::{self, Guest};
use super::handshake::{self, Channel, Entered};
use super::transport::Transport;
use super::writers::WriteRight;

/// Serves one client until it leaves, or is cut off.
pub(super) fn serve(shared: &Arc<Shared>, transport: Arc<Transport>, membership: Membership) {
    let mut input = Input::default();
    let mut channel = Handshaking {
        shared,
        transport: &transport,
        membership: &membership,
    };
    let entered = match handshake::run(&mut channel, &*shared.exports, shared.policy, &mut input) {
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
    let Entered {
        name,
        right,
        device,
        transmission,
    } = entered;
    if transport.take_time().is_err() {
        return;
    }
    membership.entered();
    membership.log.entered(&name, transmission.read_only);
    let guest = Guest {
        right,
        device,
        transmission,
        transport,
        membership,
    };
    connection::work(guest, shared, input);
}

struct Handshaking<'a> {
    shared: &'a Shared,
    transport: &'a Transport,
    membership: &'a Membership,
}

impl Channel for Handshaking<'_> {
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.transport.receive(into)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transport.send(bytes)
    }

    fn start_tls(&mut self) -> io::Result<()> {
        let identity = self.shared.tls.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        self.transport.start_tls(&identity.config)
    }

    fn stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    fn take_seat(&mut self) -> Result<(), String> {
        self.membership.take_seat()
    }

    fn give_seat_back(&mut self) {
        self.membership.give_seat_back();
    }

    fn write_right(&mut self, device: &Arc<dyn Device>) -> Option<WriteRight> {
        let enter = || self.shared.writers.enter(device, &self.membership.peer);
        (!device.is_shareable()).then(enter)
    }

    fn turned_away(&mut self, why: &str) {
        self.membership.log.turned_away(why);
    }
}
