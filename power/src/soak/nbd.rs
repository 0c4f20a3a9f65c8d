//! An NBD client: enough of the protocol to write, flush and read, several requests at once.
//!
//! It shares no line with the server. Any answer that is not to the letter is an error.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The timeout of a server's answer, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);
const CLIENT_FLAGS: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FLAG_FUA: u16 = 1;

/// A request to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Read,
    Write,
    Flush,
    WriteZeroes,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) command: Command,
    pub(crate) force: bool,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// The bytes of a write.
    pub(crate) bytes: Vec<u8>,
}

/// A connection to one export.
pub(crate) struct Client {
    stream: UnixStream,
    /// Bytes of the export.
    pub(crate) len: u64,
}

impl Command {
    fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 3,
            Self::WriteZeroes => 6,
        }
    }
}

impl Client {
    /// Connects to `export` of the server at `socket`.
    pub(crate) fn connect(socket: &Path, export: &str) -> Result<Self, String> {
        Self::try_connect(socket, export).map_err(|error| format!("NBD export {export}: {error}"))
    }

    fn try_connect(socket: &Path, export: &str) -> std::io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let greeting: [u8; 18] = take(&mut stream)?;
        if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
            return Err(broken("no greeting of an NBD server"));
        }
        let wish = [
            &CLIENT_FLAGS.to_be_bytes()[..],
            b"IHAVEOPT",
            &OPT_GO.to_be_bytes(),
            &(export.len() as u32 + 6).to_be_bytes(),
            &(export.len() as u32).to_be_bytes(),
            export.as_bytes(),
            &[0, 0],
        ]
        .concat();
        stream.write_all(&wish)?;
        let mut len = None;
        loop {
            if u64::from_be_bytes(take(&mut stream)?) != OPTION_REPLY_MAGIC
                || u32::from_be_bytes(take(&mut stream)?) != OPT_GO
            {
                return Err(broken("no reply to an option"));
            }
            let kind = u32::from_be_bytes(take(&mut stream)?);
            let data_len = u32::from_be_bytes(take(&mut stream)?) as usize;
            let mut data = vec![0; data_len.min(1 << 20)];
            stream.read_exact(&mut data)?;
            match kind {
                REP_INFO if data.len() >= 10 && data[..2] == INFO_EXPORT.to_be_bytes() => {
                    len = data[2..10].try_into().ok().map(u64::from_be_bytes);
                }
                REP_INFO => {}
                REP_ACK => break,
                _ => {
                    let said = String::from_utf8_lossy(&data).into_owned();
                    return Err(broken(&format!("refused with {kind:#x}: {said}")));
                }
            }
        }
        let len = len.ok_or_else(|| broken("no length of the export"))?;
        Ok(Self { stream, len })
    }

    /// Sends all of `asks`; calls `asking` before each goes out, and `answered` after each is
    /// answered. What was read, in order of the requests.
    pub(crate) fn call(
        &mut self,
        asks: &[Ask],
        mut asking: impl FnMut(usize),
        mut answered: impl FnMut(usize),
    ) -> Result<Vec<Vec<u8>>, String> {
        let mut reading = || -> std::io::Result<Vec<Vec<u8>>> {
            for (nth, ask) in asks.iter().enumerate() {
                asking(nth);
                self.send(nth as u64, ask)?;
            }
            let mut found = vec![Vec::new(); asks.len()];
            for _ in asks {
                if u32::from_be_bytes(take(&mut self.stream)?) != REPLY_MAGIC {
                    return Err(broken("no reply"));
                }
                let error = u32::from_be_bytes(take(&mut self.stream)?);
                let nth = u64::from_be_bytes(take(&mut self.stream)?) as usize;
                let ask = asks.get(nth).ok_or_else(|| broken("a reply to nothing"))?;
                if error != 0 {
                    return Err(broken(&format!("{:?} failed with {error}", ask.command)));
                }
                if ask.command == Command::Read {
                    found[nth] = vec![0; ask.len as usize];
                    self.stream.read_exact(&mut found[nth])?;
                }
                answered(nth);
            }
            Ok(found)
        };
        reading().map_err(|error| error.to_string())
    }

    /// The bytes of the whole export.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(self.len as usize);
        while (bytes.len() as u64) < self.len {
            let ask = Ask {
                command: Command::Read,
                force: false,
                offset: bytes.len() as u64,
                len: (self.len - bytes.len() as u64).min(1 << 20) as u32,
                bytes: Vec::new(),
            };
            bytes.append(&mut self.call(&[ask], |_| {}, |_| {})?[0]);
        }
        Ok(bytes)
    }

    fn send(&mut self, cookie: u64, ask: &Ask) -> std::io::Result<()> {
        let flags = if ask.force { FLAG_FUA } else { 0 };
        let request = [
            &REQUEST_MAGIC.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &ask.command.number().to_be_bytes(),
            &cookie.to_be_bytes(),
            &ask.offset.to_be_bytes(),
            &ask.len.to_be_bytes(),
            &ask.bytes,
        ]
        .concat();
        self.stream.write_all(&request)
    }
}

fn take<const N: usize>(stream: &mut UnixStream) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn broken(what: &str) -> std::io::Error {
    std::io::Error::other(what.to_owned())
}
