//! Any method, path and query gives a route or a refusal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::route(bytes));
