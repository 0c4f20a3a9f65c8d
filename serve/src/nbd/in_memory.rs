//! A whole dialogue with one client in memory: for fuzzing and for tests that need no socket.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vellum_core::device::{Device, Exports};

use super::buffers::{PIECE_LEN_SMALL, Pool, REQUESTS_LEN, ReceiveBuffer, ReplyBuffer};
use super::execution::{Execution, Sender};
use super::handshake::{self, Channel, EnteredExport};
use super::negotiation::Policy;
use super::transmission::RequestJob;
use crate::writers::WriteRight;

/// The server's reply to a client that sends `input` and then nothing more. Without TLS.
///
/// Cost: what the requests ask of the devices; the memory of the answer is the caller's to bound by
/// what `exports` offers.
#[must_use]
pub fn replies_to(exports: &dyn Exports, input: &[u8]) -> Vec<u8> {
    let said = SentBytes::default();
    let mut channel = MemoryChannel {
        input,
        said: said.clone(),
    };
    let mut waiting = ReceiveBuffer::default();
    let policy = Policy {
        tls_required: false,
        read_only: false,
        multi_conn: true,
    };
    if let Ok(Some(entered)) = handshake::run_handshake(&mut channel, exports, policy, &mut waiting)
    {
        let rest = [waiting.unread_bytes(), channel.input].concat();
        let sender: Sender = Mutex::new(Box::new(said.clone()));
        // It ends when the client's bytes do: there is nobody to be told.
        let _ = transmit_requests(&entered, &rest, &sender);
    }
    let mut said = said.0.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut said)
}

fn transmit_requests(entered: &EnteredExport, input: &[u8], sender: &Sender) -> io::Result<()> {
    let pool = Arc::new(Pool::new(REQUESTS_LEN));
    let EnteredExport {
        device,
        transmission,
        ..
    } = entered;
    let execution = Execution::new(&**device, transmission, &pool, sender);
    let (mut rest, mut out) = (input, ReplyBuffer::default());
    while let Ok(Some((request, header_len))) = transmission.next(rest, false) {
        rest = &rest[header_len..];
        let payload_len = usize::try_from(request.payload_len).unwrap_or(usize::MAX);
        let Some((payload, behind)) = rest.split_at_checked(payload_len) else {
            break;
        };
        rest = behind;
        if request.job == RequestJob::Disconnect {
            break;
        }
        execution.run_request(&request, payload, &mut out)?;
        if out.filled_bytes().len() >= PIECE_LEN_SMALL {
            execution.send_buffer(&mut out)?;
        }
    }
    execution.send_buffer(&mut out)
}

#[derive(Clone, Default)]
struct SentBytes(Arc<Mutex<Vec<u8>>>);

impl Write for SentBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct MemoryChannel<'a> {
    input: &'a [u8],
    said: SentBytes,
}

impl Channel for MemoryChannel<'_> {
    fn receive_bytes(&mut self, into: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.input, into)
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.write_all(bytes)
    }

    fn start_tls(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_stopping(&self) -> bool {
        false
    }

    fn take_seat(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn give_seat_back(&mut self) {}

    fn write_right(&mut self, _: &Arc<dyn Device>) -> Option<WriteRight> {
        None
    }

    fn turned_away(&mut self, _: &str) {}
}
