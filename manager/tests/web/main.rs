//! The manager as browsers, and strangers, meet it: over real sockets, plain and under TLS, with a
//! store that is not there.

mod attacks;
mod crowds;
mod fake_store;
mod pages;
mod raw_client;
mod remote;
