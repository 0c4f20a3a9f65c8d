//! `sparse_stream` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vellum_fuzz::formats::sparse_stream(data));
