//! Any record of a partial file says what may be, or is none.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::record(bytes));
