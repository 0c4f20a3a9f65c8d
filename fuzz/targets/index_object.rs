//! `index_object` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vellum_fuzz::repository::index_object(data));
