//! `qcow2_states` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vellum_fuzz::formats::qcow2_states(data));
