//! The NBD server, by the letter of the protocol, under hostile clients, under TLS, and with the
//! clients that people use.

mod client;
mod clients;
mod guests;
mod hostile;
mod memory;
mod protocol;
mod seats;
mod stopping;
mod tls;
mod world;
mod writers;
