//! `solid_block` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vellum_fuzz::encodings::solid_block(data));
