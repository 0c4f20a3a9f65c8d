//! The manager as browsers, and strangers, meet it: over real sockets, with a store that is not
//! there.

mod attacks;
mod crowds;
mod fake_store;
mod pages;
mod raw_client;
